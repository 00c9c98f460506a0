"""Curves through measured prefill points: the forms, their relative least squares, the search for what is not linear in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import InputError, require
from ..streams import stream
from .coefficients import Coefficients, Floats

FITTED_FORMS: Final = ("linear", "context", "quadratic", "context-small", "piecewise")
"""The forms that points can be fitted with, from the simplest to the one with the most freedom."""
MIN_NEW: Final = 256
"""Below about 256 new tokens reading the weights once is the larger cost (A100: about 9 ms for 7B, 55 ms for 70B on two GPUs)."""
BOOTSTRAPS: Final = 400
_KNOTS: Final = 12  # how many places are tried for a knot: finer than the octave that a knot is known to
_GAIN: Final = 0.98  # a threshold, knot or slope of the floor is kept where it takes at least 2 % off the squared error


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One form fitted to points: its coefficients, the names of those that the points decided, and draws of them.

    ``curve_from`` is the smallest number of new tokens on the curve; points below it decided the floor.
    """

    form: str
    coefficients: Coefficients
    names: tuple[str, ...]
    curve_from: float
    draws: Floats


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One linear problem inside a fit: ``values`` of ``names`` solve it on its rows."""

    names: tuple[str, ...]
    values: Floats
    design: Floats
    seconds: Floats


def fit_curve(n: Floats, c: Floats, y: Floats, form: str, curve_from: float | None = None, *, draws: bool = True) -> Curve:
    """Fit ``form`` to points (n new tokens after c cached, y seconds); ``curve_from`` None finds where the floor ends (<= 256).

    Raises InputError where the rows on the curve are too few or cannot tell the coefficients apart.
    """
    tried = [curve_from] if curve_from is not None else _floor_ends(n)
    best: tuple[float, float, _Part, dict[str, int], _Part | None] | None = None
    refusal: InputError | None = None
    for at in tried:
        large = n >= at
        try:
            _require_rows(n[large], form, "" if curve_from is None and at <= n.min() else f" with at least {at:g} new tokens")
            part, shape = _solve(n[large], c[large], y[large], form)
        except InputError as error:
            refusal = refusal or error
            continue
        if form == "context-small":
            # The small regime has its floor beside it, not under it: see below.
            loss = float(((Coefficients(**shape, **_named(part)).compute_s(n, _attended(n, c)) / y - 1) ** 2).sum())
            if large.all() and (best is None or loss < best[0]):
                best = (loss, at, part, shape, None)
            continue
        curve = Coefficients(**shape, **_named(part))
        computed = curve.compute_s(n, _attended(n, c))
        for floor in _floors(n[~large], computed[~large], y[~large]):
            line = Coefficients(**({} if floor is None else _named(floor))).compute_s(n, 0.0)
            loss = float(((np.maximum(line, computed) / y - 1) ** 2).sum())
            if best is None or loss < _GAIN * best[0] - 1e-12:
                best = (loss, at, part, shape, floor)
    if form == "context-small":
        for loss, at, part, shape, floor in _two_regimes(n, c, y, curve_from):
            if best is None or loss < _GAIN * best[0]:
                best = (loss, at, part, shape, floor)
    if best is None:
        assert refusal is not None
        raise refusal
    loss, at, part, shape, floor = best
    if curve_from is None and floor is not None and form != "context-small":
        part, floor = _sided(n, c, y, form, shape, part, floor, loss)
    parts = [part] if floor is None else [part, floor]
    values = {name: value for each in parts for name, value in _named(each).items()}
    # One row fixes a floor but says nothing about its error.
    known = [each for each in parts if len(each.seconds) > len(each.names)]
    return Curve(
        form=form,
        coefficients=Coefficients(**shape, **values),
        names=tuple(name for each in known for name in each.names),
        curve_from=at,
        draws=np.concatenate([bootstrap(each) for each in known], axis=1) if draws and known else np.empty((0, 0)),
    )


def fit_plane(design: Floats, y: Floats, names: tuple[str, ...], known: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Values >= 0 of ``names`` that minimise sum (((known + design x) / y) - 1)^2, draws of them, absolute relative errors."""
    values = _nnls(design, y, names, known)
    base = np.zeros_like(y) if known is None else known
    part = _Part(names=names, values=values, design=np.column_stack([design, base]), seconds=y)
    return values, bootstrap(part, offset=True), np.abs((design @ values + base) / y - 1)


def bootstrap(part: _Part, offset: bool = False) -> Floats:
    """Draws of the values of a linear problem, (BOOTSTRAPS, values): its residuals, resampled, and the problem solved again.

    Residuals are divided by 1 - leverage, as a jackknife does: few points make an interval wider than a normal law says. Where
    neighbours in the order of the rows have residuals alike, as a kernel's tile steps make them, blocks of neighbours are drawn
    together; their length follows Carlstein's rule for a first-order autoregression (Annals of Statistics 14, 1986).
    """
    design, y = (part.design[:, :-1], part.seconds - part.design[:, -1]) if offset else (part.design, part.seconds)
    fitted = part.seconds - y + design @ part.values
    free = part.values > 0
    draws = np.tile(part.values, (BOOTSTRAPS, 1))
    if not free.any():
        return draws
    used = design[:, free]
    relative = used / part.seconds[:, None]
    scale = np.linalg.norm(relative, axis=0)
    leverage = np.clip((np.linalg.qr(relative / scale)[0] ** 2).sum(axis=1), 0, 0.9)
    residuals = (part.seconds - fitted) / fitted / (1 - leverage)
    residuals -= residuals.mean()
    picks = _blocks(residuals, stream(0, "bootstrap"))
    again = fitted * np.maximum(1 + residuals[picks], 0.05)
    weights = 1 / again**2
    products = (used[:, :, None] * used[:, None, :] / np.outer(scale, scale)).reshape(len(y), -1)
    left = (weights @ products).reshape(BOOTSTRAPS, len(scale), len(scale))
    right = (weights * (again - (part.seconds - y))) @ (used / scale)
    draws[:, free] = np.maximum(np.linalg.solve(left, right[:, :, None])[:, :, 0] / scale, 0)
    return draws


def _blocks(residuals: Floats, random: np.random.Generator) -> Any:
    """Row numbers for every draw: rows one by one, or in runs of neighbours where their residuals are alike."""
    rows = len(residuals)
    spread = float(residuals @ residuals)
    alike = float(residuals[1:] @ residuals[:-1]) / spread if spread > 0 and rows > 8 else 0.0
    length = 1
    if alike > 2 / np.sqrt(rows):
        length = max(1, min(rows // 5, round((2 * alike / (1 - alike**2)) ** (2 / 3) * rows ** (1 / 3))))
    starts = random.integers(0, rows, size=(BOOTSTRAPS, -(-rows // length)))
    return ((starts[:, :, None] + np.arange(length)) % rows).reshape(BOOTSTRAPS, -1)[:, :rows]


def _attended(n: Floats, c: Floats) -> Floats:
    attended: Floats = n * (c + n / 2)
    return attended


def _floor_ends(n: Floats) -> list[float]:
    """Where the curve may begin: each length up to MIN_NEW, at most twelve of them, and the first length above it."""
    lengths = np.unique(n)
    short = lengths[lengths <= MIN_NEW]
    if len(short) > _KNOTS:
        short = np.unique(np.quantile(short, np.linspace(0, 1, _KNOTS), method="nearest"))
    return [float(each) for each in short] or [float(lengths[0])]


def _design(n: Floats, c: Floats, form: str, shape: Mapping[str, int]) -> tuple[tuple[str, ...], Floats]:
    """Names and columns of the coefficients of ``form`` that are linear, given the thresholds of ``shape``."""
    one, attended = np.ones_like(n), _attended(n, c)
    if form == "linear":
        return ("base_s", "per_token_s"), np.column_stack([one, n])
    if form == "quadratic":
        return ("base_s", "per_token_s", "quadratic_s"), np.column_stack([one, n, n * n / 2])
    if form == "context":
        return ("base_s", "per_token_s", "attention_s"), np.column_stack([one, n, attended])
    if form == "context-small":
        small = n < shape["small_below_tokens"]
        names = ("base_s", "per_token_s", "attention_s", "small_attention_s")
        return names, np.column_stack([one, n, attended * ~small, attended * small])
    ends = [shape[f"knot_{i}_tokens"] for i in (1, 2) if f"knot_{i}_tokens" in shape]
    pieces = [np.clip(n - low, 0, high - low) for low, high in zip([0, *ends], [*ends, np.inf], strict=True)]
    of_pieces = ("base_s", "attention_s", "per_token_s", "per_token_2_s", "per_token_3_s")[: len(pieces) + 2]
    return of_pieces, np.column_stack([one, attended, *pieces])


def _shapes(n: Floats, c: Floats, form: str, so_far: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Thresholds to try for ``form``, next to those already settled."""
    lengths = np.unique(n)
    if form == "context-small" and not so_far:
        for at in lengths[(lengths <= MIN_NEW) & (lengths > lengths[0])]:
            small = n < at
            if small.sum() >= 3 and len(np.unique(_attended(n, c)[small])) >= 3:
                yield {"small_below_tokens": int(np.ceil(at))}
    if form == "piecewise" and len(so_far) < 2:
        # An octave for each piece at least, and lengths of its own: shorter ones would follow a kernel's tile steps.
        low = so_far.get("knot_1_tokens", lengths[0])
        inner = lengths[(lengths >= 2 * low) & (lengths <= lengths[-1] / 2)][2:-2]
        if len(inner) > _KNOTS:
            inner = np.unique(np.quantile(inner, np.linspace(0, 1, _KNOTS), method="nearest"))
        for at in inner:
            yield {**so_far, f"knot_{len(so_far) + 1}_tokens": int(at)}


def _solve(n: Floats, c: Floats, y: Floats, form: str) -> tuple[_Part, dict[str, int]]:
    """The best fit of ``form`` over its thresholds."""
    if form not in ("context-small", "piecewise"):
        names, design = _design(n, c, form, {})
        return _Part(names=names, values=_nnls(design, y, names), design=design, seconds=y), {}
    settled: dict[str, int] = {}
    found: tuple[_Part, dict[str, int]] | None = None
    least = np.inf
    for _ in range(1 if form == "context-small" else 2):
        shapes = list(_shapes(n, c, form, settled))
        fits = []
        for shape in shapes:
            names, design = _design(n, c, form, shape)
            try:
                values = _nnls(design, y, names)
            except InputError:
                continue
            loss = float(((design @ values / y - 1) ** 2).sum())
            fits.append((loss, _Part(names=names, values=values, design=design, seconds=y), shape))
        if not fits:
            break
        loss, part, shape = min(fits, key=lambda fit: fit[0])
        if found is not None and loss > _GAIN * least:
            break
        least, found, settled = loss, (part, shape), shape
    if found is None:
        what = "chunks below and above a threshold" if form == "context-small" else "lengths for more than one piece"
        raise InputError("points", len(n), f"cannot be fitted in the form {form}: they hold no {what}", "Ask for another form.")
    return found


def _floors(n: Floats, computed: Floats, y: Floats) -> Iterator[_Part | None]:
    """Lines floor_s + floor_per_token_s*n that rows below the curve allow, the simplest first: none, a constant, a slope.

    ``computed`` is what the curve says of the rows; only rows above it decide the line.
    """
    yield None
    for names in (("floor_s",), ("floor_s", "floor_per_token_s")):
        design = np.column_stack([np.ones_like(n) if name == "floor_s" else n for name in names])
        active = np.ones(len(n), dtype=bool)
        best: tuple[float, _Part] | None = None
        for _ in range(20):
            if len(np.unique(n[active])) < len(names) + (len(names) > 1):
                break  # as many lengths as coefficients would put the line through tile steps
            values = _nnls(design[active], y[active], names)
            line = design @ values
            loss = float(((np.maximum(line, computed) / y - 1) ** 2).sum())
            if best is None or loss < best[0]:
                best = (loss, _Part(names=names, values=values, design=design[active], seconds=y[active]))
            above = line > computed
            if (above == active).all():
                break
            active = above
        if best is not None:
            yield best[1]


def floor_slope(n: Floats, computed: Floats, y: Floats, floor_s: float, at_most: float) -> float:
    """``floor_per_token_s`` in [0, at_most] with the least squared error at all points when decode steps gave ``floor_s``.

    A grid, then a finer one around its best: which rows lie under the floor changes with the slope.
    """
    low, high = 0.0, at_most
    slope = 0.0
    for _ in range(3):
        tried = np.linspace(low, high, 41)
        losses = ((np.maximum(floor_s + tried[:, None] * n, computed) / y - 1) ** 2).sum(axis=1)
        slope, step = float(tried[int(np.argmin(losses))]), (high - low) / 40
        low, high = max(0.0, slope - step), min(at_most, slope + step)
    return slope


def _two_regimes(
    n: Floats, c: Floats, y: Floats, curve_from: float | None
) -> Iterator[tuple[float, float, _Part, dict[str, int], _Part]]:
    """Fits of ``context-small`` whose short chunks have a floor of their own and attend on top of it, one per threshold."""
    names = ("floor_s", "floor_per_token_s", "small_attention_s")
    for shape in _shapes(n, c, "context-small", {}):
        at = shape["small_below_tokens"]
        if curve_from is not None and at != curve_from:
            continue
        small = n < at
        try:
            _require_rows(n[~small], "context", f" with at least {at} new tokens")
            part, _ = _solve(n[~small], c[~small], y[~small], "context")
            design = np.column_stack([np.ones_like(n), n, _attended(n, c)])[small]
            used = names if len(np.unique(n[small])) > 3 else (names[0], names[2])
            columns = design if len(used) == 3 else design[:, [0, 2]]
            values = _nnls(columns, y[small], used)
        except InputError:
            continue
        short = _Part(names=used, values=values, design=columns, seconds=y[small])
        whole = Coefficients(**shape, **_named(part), **_named(short))
        yield float(((whole.compute_s(n, _attended(n, c)) / y - 1) ** 2).sum()), float(at), part, shape, short


def _sided(
    n: Floats, c: Floats, y: Floats, form: str, shape: dict[str, int], part: _Part, floor: _Part, loss: float
) -> tuple[_Part, _Part]:
    """Curve and floor fitted again, each to the rows on its own side of the crossing, as long as the squared error falls.

    A split by length alone leaves rows that the floor decides on the curve, and pulls its intercept up.
    """
    for _ in range(10):
        computed = Coefficients(**shape, **_named(part)).compute_s(n, _attended(n, c))
        under = Coefficients(**_named(floor)).compute_s(n, 0.0) > computed
        try:
            names, design = _design(n[~under], c[~under], form, shape)
            curve = _Part(names=names, values=_nnls(design, y[~under], names), design=design, seconds=y[~under])
            columns = np.column_stack([np.ones_like(n), n])[under, : len(floor.names)]
            values = _nnls(columns, y[under], floor.names)
        except InputError:
            break
        line = _Part(names=floor.names, values=values, design=columns, seconds=y[under])
        both = np.maximum(
            Coefficients(**_named(line)).compute_s(n, 0.0),
            Coefficients(**shape, **_named(curve)).compute_s(n, _attended(n, c)),
        )
        now = float(((both / y - 1) ** 2).sum())
        if now >= loss * (1 - 1e-9):
            break
        loss, part, floor = now, curve, line
    return part, floor


def _named(part: _Part) -> dict[str, Any]:
    return dict(zip(part.names, part.values.tolist(), strict=True))


def _nnls(design: Floats, y: Floats, names: tuple[str, ...], known: Floats | None = None) -> Floats:
    from scipy.optimize import nnls

    require(len(y) >= len(names), "points", len(y), f"must be at least {len(names)}, one per coefficient ({', '.join(names)})")
    target = np.ones_like(y) if known is None else 1 - known / y
    relative = design / y[:, None]
    scale = np.linalg.norm(relative, axis=0)
    require(bool((scale > 0).all()), "points", names[int(np.argmin(scale))], "is a coefficient that no row depends on")
    unit = relative / scale
    if np.linalg.matrix_rank(unit, tol=1e-9 * np.sqrt(len(y))) < len(names):
        raise InputError("points", len(y), f"cannot tell {', '.join(names)} apart", "Vary the columns independently of each other.")
    solution: Floats = nnls(unit, target)[0] / scale
    return solution


def _require_rows(n: Floats, form: str, where: str) -> None:
    needed = {"linear": 2, "context-small": 4, "piecewise": 4}.get(form, 3)
    lengths = np.unique(n)
    require(
        len(n) >= needed,
        "points",
        len(n),
        f"{where.strip() + ' ' if where else ''}must be at least {needed}, one per coefficient of the form {form}",
        f"Measure more points{where}.",
    )
    require(
        len(lengths) > 1,
        "new_tokens",
        float(lengths[0]),
        f"is the only prompt length{where}",
        "Measure at two lengths or more: one cannot tell base_s from per_token_s.",
    )
