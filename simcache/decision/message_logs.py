"""A message log as conversations whose prompts are known, laid out as logged and as layout advice proposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..advice.advisor import Advice, advise
from ..advice.layouts import workload_of
from ..cache.rules import ProviderRules
from ..errors import InputError
from ..logs import UsageRow
from ..messages.parts import MessageLog, MessageRequest
from ..messages.tokens import TokenCounts, count_tokens
from ..prompt import Prompt, Request, prompt_tokens
from .conversations import Conversation, Laid, LoggedTurn, Reconstruction, Reuse

_COUNTED: float = 0.9  # of the requests that must have usage counts for the log to be held against them


def usage_rows(log: MessageLog, provider: str | None, counts: TokenCounts) -> list[UsageRow]:
    """Every request as its usage block counts it, or as its texts are counted. Errors: no provider; a request without a model.

    >>> from ..messages.parts import MessageLog
    >>> usage_rows(MessageLog(requests=(), contents=(), skipped={}), "openai", None)
    []
    """
    if provider is None:
        raise InputError("provider", None, "must be given: a message log does not say who served it", "Add --provider NAME.")
    return [_row(request, provider, counts) for request in log.requests]


def named(log: MessageLog, model: str | None) -> MessageLog:
    """The log with ``model`` in the place of models that it does not tell. Errors: neither does."""
    untold = sum(request.model is None for request in log.requests)
    if untold and model is None:
        raise InputError("model", None, f"must be given: {untold:,} requests of the log name none", "Add --model MODEL.")
    return replace(log, requests=tuple(replace(each, model=each.model or model) for each in log.requests))


def _row(request: MessageRequest, provider: str, counts: TokenCounts) -> UsageRow:
    assert request.model is not None
    usage = request.usage
    answered = 0 if request.answer is None else int(counts.tokens[request.answer])
    counted = {} if usage is None else {name: value for name, value in usage._asdict().items() if name != "batch"}
    if not counted.get("prompt_tokens"):
        counted = {"prompt_tokens": int(counts.tokens[[part.content for part in request.parts]].sum()), "output_tokens": answered}
    return UsageRow(
        provider=provider,
        model=request.model,
        batch=usage is not None and bool(usage.batch),
        started_at_s=request.started_at_s,
        ttft_s=request.ttft_s,
        session=request.session,
        user=request.user,
        **counted,
    )


def chosen_requests(log: MessageLog, rows: Sequence[UsageRow], kept: Sequence[UsageRow]) -> MessageLog:
    """The log's requests whose ``rows`` are among ``kept``, in their order."""
    places = {id(row): index for index, row in enumerate(rows)}
    return replace(log, requests=tuple(log.requests[places[id(row)]] for row in kept))


def advice_on(log: MessageLog, provider: str, model: str, rules: str | None, counts: TokenCounts | None = None) -> Advice:
    """Layout advice on a log of one model, without the cost of each defect: that is asked of `simcache advise`."""
    return advise(log, provider, model=model, rules=rules, counts=counts or count_tokens(log), cost_defects=False)


def reconstruct_messages(
    advice: Advice, rows: Sequence[UsageRow], rules: ProviderRules, *, seconds_per_output_token: float
) -> Reconstruction:
    """The conversations of the log that ``advice`` is on: prompts as logged and as proposed; ``rows`` stand in the log's order."""
    log = advice.log
    laid = {}
    for name, layout in (("logged", advice.todays), ("mended", advice.layout)):
        requests = sorted(workload_of(advice.study, replace(layout, delays_s={}), rules), key=lambda request: request.turn)
        laid[name] = _laid(requests, advice.study.previous)
    roots: list[int] = []
    for index, before in enumerate(advice.study.previous):
        roots.append(index if before is None else roots[before])
    outputs = [request.output.tokens for request in requests]
    zero_s = min((row.started_at_s or 0.0 for row in rows), default=0.0)
    ends_s: dict[int, float] = {}
    turns: dict[int, list[LoggedTurn]] = {}
    for index, row in enumerate(rows):
        at_s = (row.started_at_s or 0.0) - zero_s
        output = max(row.output_tokens, outputs[index])
        before_s = ends_s.get(roots[index])
        turns.setdefault(roots[index], []).append(
            LoggedTurn(
                row=index,
                at_s=at_s,
                prompt_tokens=prompt_tokens(laid["logged"][index].prompt),
                output_tokens=output,
                thinking_tokens=min(row.thinking_tokens, output),
                cached_tokens=row.cached_tokens,
                marked_tokens=row.cached_tokens + row.written_5m_tokens + row.written_1h_tokens,
                free_s=None if before_s is None else max(at_s - before_s, 0.0),
                ttft_s=row.ttft_s,
            )
        )
        ends_s[roots[index]] = at_s + (row.ttft_s or 0.0) + output * seconds_per_output_token
    exact = rules.matching == "exact at breakpoints"
    return Reconstruction(
        conversations=tuple(Conversation(user=rows[root].user or "", turns=tuple(each)) for root, each in turns.items()),
        reuse=Reuse(follow_ups=len(rows) - len(turns), in_time=0, whole=0, partly=0),
        caching=not exact or any(request.marks for request in log.requests) or rules.automatic_marker,
        ttl=advice.todays.ttl if advice.todays.ttl in rules.lifetime_s else rules.default_ttl,
        marked=exact,
        counted=sum(request.usage is not None for request in log.requests) >= _COUNTED * len(rows),
        layouts=laid,
        rows=tuple(rows),
    )


def _laid(requests: Sequence[Request], previous: Sequence[int | None]) -> tuple[Laid, ...]:
    """Prompts with what of each is known before its question is begun: of a follow-up what it repeats of the request before and
    one segment more (the answer); of a first request what other requests begin with too."""
    begun: Counter[tuple[int, object]] = Counter()
    nodes: dict[tuple[int, object], int] = {}
    for request in requests:
        node = 0
        for segment in request.prompt:
            begun[node, segment] += 1
            node = nodes.setdefault((node, segment), len(nodes) + 1)
    found = []
    for request, before in zip(requests, previous, strict=True):
        prompt: Prompt = request.prompt
        known = node = 0
        if before is not None:
            other = requests[before].prompt
            known = (
                next((i for i, (a, b) in enumerate(zip(other, prompt, strict=False)) if a != b), min(len(other), len(prompt))) + 1
            )
        else:
            while known < len(prompt) and begun[node, prompt[known]] > 1:
                node = nodes[node, prompt[known]]
                known += 1
        found.append(Laid(prompt, request.breakpoints, max(min(known, len(prompt) - 1), 0)))
    return tuple(found)
