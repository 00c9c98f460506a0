"""How many tokens the contents of a message log are: by a tokeniser file of the user's, else by a stated estimate per script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .parts import MessageLog

Counter = Callable[[str], int]

SOURCE: Final = (
    "mean of three tokenisers (o200k_base of OpenAI, Qwen's, Claude 2's) on a paragraph of support instructions per script, and"
    " on this project's own pages, code and tables for ASCII; measured 2026-11-28"
)
IMAGE_TOKENS: Final = 1_000
"""A picture or a page whose size the log does not tell: width times height over 750 is 1,000 for 1,000 x 750 pixels (Anthropic's
vision guide, 2026); 765 is OpenAI's count for 1,024 x 1,024 in high detail."""


class Script(NamedTuple):
    """Characters from ``first`` to ``last``, what one is in tokens, and the ``least`` and ``most`` of the three tokenisers."""

    name: str
    first: int
    last: int
    tokens: float
    least: float
    most: float


ASCII: Final = {
    # class -> tokens a character, the least and the most of three tokenisers
    "letters": (0.228, 0.228, 0.232),
    "digits": (0.8, 0.72, 1.33),
    "signs": (0.42, 0.40, 0.47),
    "spaces": (0.09, 0.07, 0.10),
    "newlines": (1.4, 1.3, 2.1),
}
SCRIPTS: Final = (
    Script("Latin letters with marks", 0xA0, 0x24F, 0.9, 0.6, 1.0),
    Script("Greek", 0x370, 0x3FF, 0.9, 0.46, 1.3),
    Script("Cyrillic", 0x400, 0x52F, 0.42, 0.29, 0.60),
    Script("Hebrew", 0x590, 0x5FF, 0.69, 0.48, 1.1),
    Script("Arabic", 0x600, 0x6FF, 0.66, 0.39, 1.1),
    Script("Indic", 0x900, 0xDFF, 0.9, 0.36, 1.3),
    Script("Thai and Lao", 0xE00, 0xEFF, 0.9, 0.36, 1.8),
    Script("punctuation and symbols", 0x2000, 0x2BFF, 0.7, 0.5, 1.0),
    Script("Chinese and Japanese punctuation", 0x3000, 0x303F, 0.75, 0.6, 1.0),
    Script("kana", 0x3040, 0x30FF, 0.83, 0.67, 1.1),
    Script("Chinese characters", 0x3400, 0x9FFF, 0.74, 0.59, 0.95),
    Script("hangul", 0xAC00, 0xD7AF, 0.98, 0.72, 1.4),
    Script("full-width forms", 0xFF00, 0xFFEF, 0.75, 0.6, 1.0),
    Script("emoji", 0x1F000, 0x1FAFF, 1.6, 1.0, 2.3),
)
_OTHER_TOKENS: Final = 1.0
_EDGES: Final = np.array([edge for script in SCRIPTS for edge in (script.first, script.last + 1)])
_WEIGHTS: Final = np.array([_OTHER_TOKENS, *(weight for script in SCRIPTS for weight in (script.tokens, _OTHER_TOKENS))])


def _ascii_weights() -> NDArray[np.float64]:
    table = np.zeros(128)
    for code in range(128):
        letter = chr(code)
        kind = "letters" if letter.isalpha() else "digits" if letter.isdigit() else "newlines" if letter == "\n" else "signs"
        table[code] = ASCII["spaces" if letter in " \t\r" else kind][0] if letter.isprintable() or letter.isspace() else 0.0
    return table


_ASCII_WEIGHTS: Final = _ascii_weights()


def weights_of(text: str) -> NDArray[np.float64]:
    """What every character of ``text`` is in tokens.

    >>> weights_of("a1").tolist()
    [0.228, 0.8]
    """
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32)
    if text.isascii():
        return np.asarray(_ASCII_WEIGHTS[points])
    scripts = _WEIGHTS[np.searchsorted(_EDGES, points, side="right")]
    return np.where(points < 128, _ASCII_WEIGHTS[np.minimum(points, 127)], scripts)


def estimate_tokens(text: str) -> int:
    """The estimate: the sum over characters. A text that is not empty is one token at least.

    >>> estimate_tokens("The quick brown fox jumps over the lazy dog."), estimate_tokens("请先用工具查询包裹")
    (9, 7)
    """
    return max(1, round(float(weights_of(text).sum()))) if text else 0


def tokenizer_file(path: str | Path) -> Counter:
    """A counter from a Hugging Face ``tokenizer.json`` (needs the extra ``tokens``), special tokens not added.

    Errors: the package or the file is missing, or the file is no tokeniser.

    >>> tokenizer_file("no-such-tokenizer.json")
    Traceback (most recent call last):
    simcache.errors.InputError: tokenizer(='no-such-tokenizer.json') ...
    """
    if not Path(path).is_file():
        raise InputError("tokenizer", str(path), "is not a file", "Give the tokenizer.json of your model.")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        way_out = "Install it (pip install 'simcache[tokens]'), or leave --tokenizer away for the estimate per script."
        raise InputError("tokenizer", str(path), "needs the package tokenizers", way_out) from None
    try:
        made = Tokenizer.from_file(str(path))
    except Exception:  # the package raises bare Exception
        rule = "is no tokeniser file of Hugging Face tokenizers"
        raise InputError("tokenizer", str(path), rule, "Give the tokenizer.json of your model.") from None

    def count(text: str) -> int:
        return len(made.encode(text, add_special_tokens=False).ids)

    return count


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Tokens of every content of a log, by its number; ``source`` says how they were counted, ``scale`` by what the estimate was
    multiplied to meet the log's own usage counts (1: it was not), ``metered`` how many requests had such counts."""

    tokens: NDArray[np.int64] = field(repr=False)
    source: str
    scale: float = 1.0
    metered: int = 0
    counter: Counter = field(default=estimate_tokens, repr=False)

    def piece_tokens(self, text: str) -> int:
        """Tokens of a piece of a text, at the same scale.

        >>> TokenCounts(tokens=np.array([9]), source="", scale=2.0).piece_tokens("The quick brown fox")
        8
        """
        return max(1, round(self.counter(text) * self.scale)) if text else 0


def count_tokens(log: MessageLog, tokenizer: str | Path | None = None) -> TokenCounts:
    """Tokens of every content of ``log``: by the tokeniser in a file, else by the estimate, scaled by one factor so that the median
    request has the prompt tokens that its usage block counts (where at least three do).

    >>> from simcache.messages.reader import read_messages
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = path.write_text('{"messages": [{"role": "user", "content": "Hello there, how are you?"}]}\\n')
    >>> count_tokens(read_messages(path)).tokens.tolist()
    [6]
    """
    counter = estimate_tokens if tokenizer is None else tokenizer_file(tokenizer)
    tokens = np.array([counter(each.text) + IMAGE_TOKENS * each.images for each in log.contents], dtype=np.int64)
    metered = [request for request in log.requests if request.usage is not None and request.usage.prompt_tokens]
    ratios = []
    for request in metered:
        counted = int(tokens[[part.content for part in request.parts]].sum())
        if counted and request.usage is not None:
            ratios.append(request.usage.prompt_tokens / counted)
    if tokenizer is not None:
        return TokenCounts(tokens=tokens, source=f"tokeniser file {Path(tokenizer).name}", metered=len(metered), counter=counter)
    scale = float(np.median(ratios)) if len(ratios) >= _FEWEST_METERED else 1.0
    scaled = np.where(tokens > 0, np.maximum(1, np.round(tokens * scale)), 0).astype(np.int64)
    source = "estimate per script (docs/advise.md)"
    if scale != 1.0:
        source += f", times {scale:.3g} to meet the usage of {len(ratios):,} requests"
    return TokenCounts(tokens=scaled, source=source, scale=scale, metered=len(metered))


_FEWEST_METERED: Final = 3
