"""Which form suits points: errors on rows that a fit has not seen, where a straight line holds, residuals by length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np

from ..errors import InputError, UnknownNameError, require, require_number
from ..streams import stream
from .coefficients import Floats
from .fitting import FITTED_FORMS, Curve, fit_curve

HoldoutKind = Literal["random", "extrapolate-new", "extrapolate-total"]
HOLDOUT_KINDS: Final = ("random", "extrapolate-new", "extrapolate-total")
_FOLDS: Final = ("extrapolate-new", "extrapolate-total", "extrapolate-cached")
RANDOM_SPLITS: Final = 5
HELD_OUT: Final = 0.3
_MARGIN: Final = 1.2  # to beat a simpler form takes this factor, on the folds and on all rows: less is luck
_PLAIN, _NOT_WORSE = 4.0, 1.5  # or the first on all rows and the second on the folds, which may hold out what shows a regime
Points = tuple[Floats, Floats, Floats]


def errors(curve: Curve, points: Points) -> Floats:
    """Relative errors of a curve at points, signed: predicted/measured - 1."""
    n, c, y = points
    signed: Floats = curve.coefficients.compute_s(n, n * (c + n / 2)) / y - 1
    return signed


def splits(points: Points, kind: str, share: float = HELD_OUT) -> Iterator[tuple[Points, Points]]:
    """(kept, held out) pairs of ``points``: five seeded shuffles, or the largest ``share`` by new or by total tokens once.

    Ties keep the order of the rows. Raises InputError where the share leaves no row on one side.
    """
    n, c, _ = points
    if kind not in {*HOLDOUT_KINDS, *_FOLDS}:
        raise UnknownNameError("holdout kind", kind, HOLDOUT_KINDS)
    require_number("holdout", share, above=0)
    held = round(share * len(n))
    require(0 < held < len(n), "holdout", share, f"must leave rows on both sides of {len(n)}", "Give more points or another share.")
    if kind == "random":
        orders = [stream(seed, "holdout").permutation(len(n)) for seed in range(RANDOM_SPLITS)]
    else:
        size = {"extrapolate-new": n, "extrapolate-total": n + c, "extrapolate-cached": c}[kind]
        orders = [np.argsort(size, kind="stable")]
    for order in orders:
        kept, out = order[:-held], order[-held:]
        # Rows keep their order in the file: the bootstrap reads likeness of neighbours from it.
        yield tuple(column[np.sort(kept)] for column in points), tuple(column[out] for column in points)  # type: ignore[misc]


def holdout_mape(points: Points, form: str, kind: str, share: float = HELD_OUT, curve_from: float | None = None) -> float | None:
    """Mean relative error of ``form``, fitted to the kept rows, on the held-out ones; None: the kept ones cannot be fitted."""
    means = []
    try:
        pairs = list(splits(points, kind, share))
    except InputError:
        return None
    for kept, out in pairs:
        try:
            curve = fit_curve(*kept, form, curve_from, draws=False)
        except InputError:
            return None
        means.append(float(np.abs(errors(curve, out)).mean()))
    return float(np.mean(means))


def choose_form(points: Points, curve_from: float | None = None) -> tuple[str, dict[str, float]]:
    """The form with the least mean error on extrapolating folds (by new, total and cached tokens), and the error of each.

    The simplest form is taken that no other beats by a fifth, both on the folds and in the squared error of all rows; or by a
    factor of four in the latter, if it is not half as bad again on the folds. With too few rows to hold any out, a line. Raises
    InputError where not even a line can be fitted.
    """
    scores: dict[str, float] = {}
    folds = _FOLDS if len(np.unique(points[1])) > 1 else _FOLDS[:1]
    for form in FITTED_FORMS:
        found = [holdout_mape(points, form, kind, curve_from=curve_from) for kind in folds] if len(points[0]) > 4 else []
        known = [each for each in found if each is not None]
        if found and len(known) == len(found):
            scores[form] = float(np.mean(known))
    if not scores:
        fit_curve(*points, "linear", curve_from, draws=False)
        return "linear", scores
    losses = {form: float((errors(fit_curve(*points, form, curve_from, draws=False), points) ** 2).sum()) for form in scores}

    def beaten(form: str) -> bool:
        by_a_margin = (scores[o] * _MARGIN < scores[form] - 1e-9 and losses[o] * _MARGIN < losses[form] for o in scores)
        plainly = (scores[o] < scores[form] * _NOT_WORSE and losses[o] * _PLAIN < losses[form] - 1e-9 for o in scores)
        return any(by_a_margin) or any(plainly)

    return next(form for form in scores if not beaten(form)), scores


def interpolation_mape(points: Points, kind: str, share: float = HELD_OUT) -> float | None:
    """What a table of the kept points, interpolated, misses on the held-out ones (outside the table: its nearest point).

    Good inside what was measured, useless outside: the yardstick that a form has to be held against on both kinds of rows.
    None: the kept points span no table.
    """
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    means = []
    for (n, c, y), (held_n, held_c, held_y) in splits(points, kind, share):
        if len(np.unique(c)) == 1:
            order = np.argsort(n, kind="stable")
            guess = np.interp(held_n, n[order], y[order])
        else:
            from scipy.spatial import QhullError

            where = np.column_stack([np.log2(n), np.log2(c + 64)])
            asked = np.column_stack([np.log2(held_n), np.log2(held_c + 64)])
            try:
                guess = LinearNDInterpolator(where, y)(asked)
            except QhullError:
                return None
            outside = np.isnan(guess)
            guess[outside] = NearestNDInterpolator(where, y)(asked[outside])
        means.append(float(np.abs(guess / held_y - 1).mean()))
    return float(np.mean(means))


def linear_window(points: Points, tolerance: float = 0.05) -> dict[str, Any] | None:
    """The widest range of new tokens (in octaves) in which a line through the points has a mean relative error <= ``tolerance``.

    Looked for at the context with the most lengths (the smallest of equals); None: fewer than three lengths there, or none holds.

    >>> linear_window((np.array([256., 512, 1024]), np.zeros(3), np.array([1., 2, 4])))["new_tokens"]
    [256, 1024]
    """
    n, c, y = points
    contexts = np.unique(c)
    lengths_at = [len(np.unique(n[c == context])) for context in contexts]
    context = contexts[int(np.argmax(lengths_at))]
    here = c == context
    lengths = np.unique(n[here])
    best: dict[str, Any] | None = None
    for first in range(len(lengths) - 2):
        for last in range(len(lengths) - 1, first + 1, -1):
            if best is not None and lengths[last] / lengths[first] <= best["new_tokens"][1] / best["new_tokens"][0]:
                break
            rows = here & (n >= lengths[first]) & (n <= lengths[last])
            design = np.column_stack([np.ones(int(rows.sum())), n[rows]]) / y[rows, None]
            line = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)[0]
            mape = float(np.abs(design @ line - 1).mean())
            if mape <= tolerance:
                best = {
                    "new_tokens": [int(lengths[first]), int(lengths[last])],
                    "cached_tokens": int(context),
                    "tolerance": tolerance,
                    "mape": mape,
                }
    return best


def residual_table(points: Points, signed: Floats) -> list[dict[str, Any]]:
    """Mean signed and mean absolute relative error by octave of new tokens and by context (0, then powers of four from 256).

    >>> residual_table((np.array([300., 500]), np.zeros(2), np.ones(2)), np.array([0.5, -0.1]))[0]["mean_error"]
    0.2
    """
    n, c, _ = points
    octave = np.floor(np.log2(n)).astype(int)
    depth = np.where(c < 1, 0, np.maximum(1, np.floor(np.log2(np.maximum(c, 1)) / 2) - 3)).astype(int)
    table = []
    for length in np.unique(octave):
        for context in np.unique(depth[octave == length]):
            rows = (octave == length) & (depth == context)
            table.append(
                {
                    "new_tokens": [int(n[rows].min()), int(n[rows].max())],
                    "cached_tokens": [int(c[rows].min()), int(c[rows].max())],
                    "n": int(rows.sum()),
                    "mean_error": float(signed[rows].mean()),
                    "mape": float(np.abs(signed[rows]).mean()),
                }
            )
    return table
