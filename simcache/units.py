"""Numbers as people read them: the one place where seconds become ms, bytes GB and prices $/Mtok."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

NOTHING: Final = "-"
"""What a person reads where a thing does not apply."""


def _digits(value: float, significant: int) -> str:
    """``value`` (not negative) with thousands separators and at least ``significant`` digits of which none is an exponent.

    Rounded once through ``e`` notation, so that the number of decimals is chosen after rounding: 9.996 is 10.0, not 10.00.
    """
    if value == 0:
        return "0"
    exponent = int(f"{value:.{significant - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, significant - 1 - exponent)}f}"


def _signed(value: float, text: Callable[[float], str], plus: bool) -> str:
    sign = "-" if value < 0 else "+" if plus and value > 0 else ""
    return sign + text(abs(value))


def seconds(value_s: float | None, *, plus: bool = False) -> str:
    """A span: microseconds, ms, s, or hours from 10,000 s up; ``plus`` writes the sign of a difference.

    >>> seconds(20.872), seconds(0.3124), seconds(0.00002), seconds(7200), seconds(36_000), seconds(None)
    ('20.87 s', '312 ms', '20.0 us', '7,200 s', '10.0 h', '-')
    """
    if value_s is None:
        return NOTHING

    def text(size_s: float) -> str:
        if size_s == 0:
            return "0 s"
        if size_s < 0.9995e-3:
            return f"{_digits(size_s * 1e6, 3)} us"
        if size_s < 0.9995:
            return f"{_digits(size_s * 1e3, 3)} ms"
        if size_s < 9_999.5:
            return f"{size_s:.2f} s" if size_s < 99.995 else f"{_digits(size_s, 4)} s"
        return f"{_digits(size_s / 3600, 3)} h"

    return _signed(value_s, text, plus)


def dollars(value_usd: float | None, *, plus: bool = False) -> str:
    """An amount: cents from a dollar up, three significant digits below.

    >>> dollars(0.574), dollars(1234.5), dollars(0.00001234), dollars(-2, plus=True), dollars(0)
    ('$0.574', '$1,234.50', '$0.0000123', '-$2.00', '$0.00')
    """
    if value_usd is None:
        return NOTHING

    def text(size_usd: float) -> str:
        return f"${size_usd:,.2f}" if size_usd == 0 or size_usd >= 0.9995 else f"${_digits(size_usd, 3)}"

    return _signed(value_usd, text, plus)


def usd_per_mtok(value_usd_per_token: float | None) -> str:
    """A price per token as dollars per million tokens.

    >>> usd_per_mtok(3e-6), usd_per_mtok(3e-7)
    ('$3.00/Mtok', '$0.300/Mtok')
    """
    return NOTHING if value_usd_per_token is None else f"{dollars(value_usd_per_token * 1e6)}/Mtok"


def count(value: float | None, *, plus: bool = False) -> str:
    """How many, with thousands separators; a small mean over seeds keeps one decimal.

    >>> count(151_629), count(12.25), count(278.3)
    ('151,629', '12.2', '278')
    """
    if value is None:
        return NOTHING
    return _signed(value, lambda size: f"{size:,.0f}" if size == round(size) or size >= 100 else f"{size:,.1f}", plus)


def tokens(value: float | None) -> str:
    """A number of tokens with its unit.

    >>> tokens(151_629)
    '151,629 tokens'
    """
    return NOTHING if value is None else f"{count(value)} token{'' if value == 1 else 's'}"


def gigabytes(value_bytes: float | None) -> str:
    """A size in decimal gigabytes (10^9 bytes).

    >>> gigabytes(78.3e9), gigabytes(16_000)
    ('78.3 GB', '0.0000160 GB')
    """
    return NOTHING if value_bytes is None else _signed(value_bytes, lambda size: f"{_digits(size / 1e9, 3)} GB", False)


def share(value: float | None, *, plus: bool = False) -> str:
    """A share in percent with one decimal; what is not all never reads as all, nor what is not nothing as nothing.

    >>> share(0.9071), share(1.0), share(0.99999), share(0.0001), share(0.0)
    ('90.7 %', '100 %', '> 99.9 %', '< 0.1 %', '0 %')
    """
    if value is None:
        return NOTHING

    def text(size: float) -> str:
        if size in (0.0, 1.0):
            return f"{size * 100:.0f} %"
        if size < 0.0005:
            return "< 0.1 %"
        if 0.9995 <= size < 1.0:
            return "> 99.9 %"
        return f"{size * 100:,.1f} %"

    return _signed(value, text, plus)


def rate(value_per_s: float | None, noun: str = "requests") -> str:
    """A rate per second.

    >>> rate(12_345.6), rate(0.25, "users")
    ('12,346 requests/s', '0.250 users/s')
    """
    return NOTHING if value_per_s is None else _signed(value_per_s, lambda size: f"{_digits(size, 3)} {noun}/s", False)


def interval(bounds: tuple[float, float] | list[float] | None, text: Callable[[float], str]) -> str:
    """An interval in one of the formats above; empty where there is none.

    >>> interval((19.8, 21.2), seconds), interval(None, seconds)
    ('[19.80 s, 21.20 s]', '')
    """
    return "" if bounds is None else f"[{text(bounds[0])}, {text(bounds[1])}]"
