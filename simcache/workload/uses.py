"""The uses of prompt caching as populations: what each stands for, with sources. Each is also a shipped scenario of its name.

Sources named below: *Mooncake*: conversation trace of a chat service (kvcache-ai/Mooncake @3b5a5941, 2024). *Coding sessions*: 237
coding-agent sessions with real pauses (callanjfox/kv-cache-tester @94f6046d). *mini-swe*: 20 agent sessions
(LMCache/lmcache-agent-trace @16a14ada). *ShareGPT*: see :class:`~simcache.workload.presets.TypingSessions`, whose defaults hold
for everything that is not given here. What has no source is called an assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .distributions import Geometric, LogNormal
from .presets import TypingSessions


def conversational_assistant(**changes: Any) -> TypingSessions:
    """An assistant with long instructions and an uploaded document, talked to by people.

    Instructions of 2,000 and documents of 8,000 tokens are assumptions; turns, questions, answers and pauses are those of
    ShareGPT and Mooncake. Drafts sent: 90 %, an assumption (the one public figure on withheld drafts, 71 % of 3.9 million people
    in 17 days, Das & Kramer 2013, is about social posts). ``changes`` replace fields.

    >>> conversational_assistant(users=5).users
    5
    """
    return _made(changes, users=200, system_tokens=2_000, document_tokens=8_000, p_send=0.9)


def coding_assistant(**changes: Any) -> TypingSessions:
    """A coding agent in a repository: a large context, runs of tool calls, a human who looks in now and then.

    From the coding sessions: tools 12,974 and system 4,243 tokens (the first session's); first prompts 23,071 at the median, so
    about 6,000 tokens of repository, with a long tail (p90 258k; sigma 2 here); 5 tool calls per question at the median, mean 13;
    tools take 8 s at the median (p90 75 s); a call's output 208 tokens at the median (p90 820), its result about 290 (p90 3,090);
    last answers 378 (p90 872); after an answer people take 224 s in the geometric mean (sigma 2.24; 44 % above five minutes, 10 %
    above an hour): log-normals through these, and ``TracePauses`` resamples the pauses themselves. Four questions per session:
    992 ended answers in 237 sessions. Thinking of 200 tokens at the median is an assumption.

    >>> coding_assistant().tools_tokens
    12974
    """
    return _made(
        changes,
        users=20,
        tools_tokens=12_974,
        system_tokens=4_243,
        document_tokens=LogNormal(median=6_000, sigma=2.0),
        questions=Geometric(mean=4.2),
        output_tokens=LogNormal(median=378, sigma=0.65),
        tool_calls=LogNormal(median=5, sigma=1.4),
        tool_delay_s=LogNormal(median=8, sigma=1.4),
        tool_call_tokens=LogNormal(median=208, sigma=1.07),
        tool_result_tokens=LogNormal(median=300, sigma=1.5),
        thinking_tokens=LogNormal(median=200, sigma=1.0),
        read_think_s=LogNormal(median=224, sigma=2.24),
    )


def document_processing(**changes: Any) -> TypingSessions:
    """Large documents worked through, images included, each by its own reader: contracts, reports, scanned files.

    20,000 tokens of text and 20 images of 1,500 tokens (each a segment of its own), two questions, answers of 500 tokens: all
    assumptions; typing and pauses as measured for chat.

    >>> document_processing().document_images
    20
    """
    return _made(
        changes,
        users=100,
        document_tokens=LogNormal(median=20_000, sigma=0.6),
        document_images=20,
        image_tokens=1_500,
        questions=Geometric(mean=2.0),
        output_tokens=LogNormal.of_mean(500, 0.6),
    )


def instruction_set(**changes: Any) -> TypingSessions:
    """A detailed set of instructions, procedures and worked examples (many-shot) before every short request of a whole team.

    20,000 tokens that all users of an organisation share, four organisations, one short question and answer each, at a rate that
    follows the office's day from 9 on Monday: sizes and rate are assumptions.

    >>> instruction_set().organisations
    4
    """
    return _made(
        changes,
        users=None,
        arrivals_per_s=0.05,
        organisations=4,
        system_tokens=20_000,
        document_tokens=0,
        questions=1,
        output_tokens=LogNormal.of_mean(120, 0.6),
    )


def agentic_search(**changes: Any) -> TypingSessions:
    """An agent that searches and uses tools in many rounds before it answers; every round sends all that went before.

    From mini-swe: 20 requests per task (so 19 calls at the median here, sigma 0.45), 100 tokens of output per call, results of 185
    tokens at the upper quartile and 2,654 at the 95th percentile (median 100, sigma 2.0 here). Tools of 6,000 tokens, instructions
    of 1,500 (its first prompts have 1,478), searches of 2 s, thinking of 150 tokens that later prompts drop: assumptions but for
    the instructions.

    >>> agentic_search().thinking_joins
    False
    """
    return _made(
        changes,
        users=40,
        tools_tokens=6_000,
        system_tokens=1_500,
        document_tokens=0,
        questions=Geometric(mean=2.0),
        tool_calls=LogNormal(median=19, sigma=0.45),
        tool_delay_s=LogNormal(median=2, sigma=0.8),
        tool_call_tokens=LogNormal(median=100, sigma=0.5),
        tool_result_tokens=LogNormal(median=100, sigma=2.0),
        thinking_tokens=LogNormal(median=150, sigma=0.8),
    )


def long_content(**changes: Any) -> TypingSessions:
    """People who talk to books, papers and podcasts: few works are popular, most are opened once in a while.

    100 works of 60,000 tokens at the median (sigma 0.9: papers from about 10,000, books to 300,000), popularity 1/rank: all
    assumptions. Turns, questions and pauses as measured for chat.

    >>> long_content().documents
    100
    """
    return _made(
        changes, users=150, documents=100, zipf=1.0, document_tokens=LogNormal(median=60_000, sigma=0.9), system_tokens=800
    )


def evaluation_fan_out(**changes: Any) -> TypingSessions:
    """N gradings of one rubric: 10 workers start at once and send 20 answers each, all over the same 6,000-token rubric.

    Nobody types and nothing joins: each request is rubric plus one answer of about 343 tokens (Mooncake's mean output), its grade
    60 tokens. Sent together before the first entry is visible, all of the first round pay in full. Rubric, grade and numbers are
    assumptions.

    >>> evaluation_fan_out().question_joins
    False
    """
    return _made(
        changes,
        users=10,
        arrive_within_s=0.0,
        organisations=1,
        system_tokens=6_000,
        document_tokens=0,
        questions=20,
        question_tokens=LogNormal.of_mean(343, 0.6),
        question_joins=False,
        answer_joins=False,
        output_tokens=60,
        typing_s=0.0,
        read_think_s=0.0,
    )


USES: Final[Mapping[str, Callable[..., TypingSessions]]] = {
    "conversational-assistant": conversational_assistant,
    "coding-assistant": coding_assistant,
    "document-processing": document_processing,
    "instruction-set": instruction_set,
    "agentic-search": agentic_search,
    "long-content": long_content,
    "evaluation-fan-out": evaluation_fan_out,
}
"""Name of the shipped scenario -> the population in it."""


def _made(changes: Mapping[str, Any], **fields: Any) -> TypingSessions:
    if "arrivals_per_s" in changes and "users" not in changes:
        fields["users"] = None
    return TypingSessions(**{**fields, **changes})
