"""Latency of prefill and decode: the form, its fit to measurements, and the profiles that carry the result."""

from __future__ import annotations

from typing import Any, Final, overload

import numpy as np
from numpy.typing import ArrayLike

from .coefficients import (
    FORMS,
    Coefficients,
    Covariance,
    FitRecord,
    Floats,
    Form,
    HostedProfile,
    MeasuredRange,
    ServerProfile,
    Tokens,
)
from .errors import InputError, UnknownNameError, require, require_count
from .profiles import load_profile, profile_names, save_profile

__all__ = [
    "Coefficients",
    "Covariance",
    "FitRecord",
    "HostedProfile",
    "LatencyModel",
    "MeasuredRange",
    "ServerProfile",
    "load_profile",
    "profile_names",
    "save_profile",
]

MIN_NEW: Final = 256
"""Below about 256 new tokens reading the weights once is the larger cost (A100: about 9 ms for 7B, 55 ms for 70B on two GPUs)."""

_PREFILL: Final = {"context": ("base_s", "per_token_s", "attention_s"), "linear": ("base_s", "per_token_s")}
_DECODE: Final = ("floor_s", "per_decode_s", "per_kv_token_s")


class LatencyModel:
    """Prefill and decode time of one engine step without host work, fitted to measured points.

    The form. Computing n new tokens after c cached ones takes ``max(floor, base + per_token*n + attention*n*(c + n/2))``
    seconds: suffix tokens still attend to the cached prefix, so a hit does not save its share. ``form="linear"`` is the
    special case ``attention = 0``. A decode step of b sequences that read K kv tokens takes ``d0 + d1*b + d2*K``.

    The fit. Relative least squares (the sum of squared relative residuals is smallest), no coefficient below 0; base,
    per_token and attention from rows with n >= ``min_new``, the floor from the rows below. Standard errors are those of least
    squares with independent residuals; kernels have tile steps, so residuals of neighbours are alike and the true
    errors larger. A coefficient that the fit holds at 0 has standard error 0.

    Fitted: ``floor_s_``, ``base_s_``, ``per_token_s_``, ``attention_s_``; ``covariance_`` (with ``.standard_errors``);
    ``mape_`` and ``max_ape_`` over rows with n >= min_new, ``mape_below_min_new_`` (None: no such rows), fractions; ``n_`` rows;
    ``range_``; ``form_``. After ``fit_decode`` also ``per_decode_s_``, ``per_kv_token_s_``, ``decode_mape_``, ``decode_n_``.

    >>> model = LatencyModel().fit([512, 1024, 2048, 4096], [0, 0, 0, 0], [0.06, 0.11, 0.21, 0.41], form="linear")
    >>> round(model.predict_s(1000), 3)
    0.108
    """

    def __init__(self) -> None:
        self.form_: Form | None = None
        self.decode_mape_: float | None = None
        self.decode_n_: int | None = None

    def fit(
        self,
        new_tokens: ArrayLike,
        cached_tokens: ArrayLike,
        seconds: ArrayLike,
        form: Form = "context",
        *,
        min_new: int = MIN_NEW,
    ) -> LatencyModel:
        """Fit prefill points: row i computed ``new_tokens[i]`` (>= 1) after ``cached_tokens[i]`` in ``seconds[i]`` (> 0).

        Raises InputError for columns of unequal length, values that are missing, infinite or out of range, fewer rows than
        coefficients, and rows that cannot tell the coefficients apart. Forgets an earlier fit.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear").n_
        2
        """
        if form not in FORMS:
            raise UnknownNameError("form", form, FORMS)
        require_count("min_new", min_new, at_least=0)
        n, c, y = _columns(new_tokens=(new_tokens, 1.0), cached_tokens=(cached_tokens, 0.0), seconds=(seconds, None))
        names = _PREFILL[form]
        large = n >= min_new
        where = f" with at least {min_new} new tokens"
        _require_rows(int(large.sum()), names, where)
        require(
            len(np.unique(n[large])) > 1,
            "new_tokens",
            float(n[large][0]),
            f"is the only prompt length{where}",
            "Measure at two lengths or more: one cannot tell base_s from per_token_s.",
        )
        design = np.column_stack([np.ones_like(n), n, n * (c + n / 2)])[:, : len(names)]
        values, covariance, _ = _relative_least_squares(design[large], y[large], names)
        computed = design @ values
        self.floor_s_, floor_variance = _floor(computed[~large], y[~large])
        self._forget_decode()
        self.form_ = form
        self.base_s_, self.per_token_s_ = float(values[0]), float(values[1])
        self.attention_s_ = float(values[2]) if form == "context" else 0.0
        self._covariances: dict[str, tuple[tuple[str, ...], Floats]] = {"prefill": (names, covariance)}
        if floor_variance is not None:
            self._covariances["floor"] = (("floor_s",), np.array([[floor_variance]]))
        self._points, self._large = (n, c, y), large
        self.n_ = len(n)
        self.range_ = MeasuredRange(new_tokens=_bounds(n), cached_tokens=_bounds(c), total_tokens=_bounds(n + c))
        return self

    def fit_decode(self, batch: ArrayLike, kv_tokens: ArrayLike, seconds: ArrayLike) -> LatencyModel:
        """Fit decode points ``d0 + d1*batch + d2*kv_tokens``; row i decoded ``batch[i]`` >= 1 sequences of ``kv_tokens[i]`` in all.

        A decode step reads every weight once, as a short prefill does, so d0 and the prefill floor are one quantity; d0 sees
        it at zero tokens and replaces ``floor_s_``. A step without chunks costs ``max(floor_s, base_s) + ...``: where d0
        would come out below ``base_s_`` it is held at ``base_s_``. Then the coefficients give d0 + d1*b + d2*K exactly.
        Raises InputError as ``fit`` does, and where ``fit`` has not been called.

        >>> model = LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear")
        >>> round(model.fit_decode([1, 2, 2, 4], [10, 20, 90, 40], [0.0211, 0.0222, 0.0229, 0.0244]).floor_s_, 6)
        0.02
        """
        self._require_fit("fit_decode")
        b, k, y = _columns(batch=(batch, 1.0), kv_tokens=(kv_tokens, 0.0), seconds=(seconds, None))
        _require_rows(len(b), _DECODE, "")
        design = np.column_stack([np.ones_like(b), b, k])
        values, covariance, errors = _relative_least_squares(design, y, _DECODE)
        if values[0] < self.base_s_:
            rest, part, errors = _relative_least_squares(design[:, 1:], y, _DECODE[1:], known=np.full_like(y, self.base_s_))
            values = np.array([self.base_s_, *rest])
            covariance = np.zeros((3, 3))
            covariance[1:, 1:] = part
        self.floor_s_, self.per_decode_s_, self.per_kv_token_s_ = (float(value) for value in values)
        self._covariances.pop("floor", None)
        self._covariances["decode"] = (_DECODE, covariance)
        self.decode_mape_, self.decode_n_ = float(errors.mean()), len(b)
        r = self.range_
        self.range_ = MeasuredRange(
            new_tokens=r.new_tokens,
            cached_tokens=r.cached_tokens,
            total_tokens=r.total_tokens,
            batch=_bounds(b),
            kv_tokens=_bounds(k),
        )
        return self

    @overload
    def predict_s(self, new_tokens: float, cached_tokens: float = 0) -> float: ...
    @overload
    def predict_s(self, new_tokens: Tokens, cached_tokens: Tokens | float = 0) -> Floats: ...
    @overload
    def predict_s(self, new_tokens: float, cached_tokens: Tokens) -> Floats: ...
    def predict_s(self, new_tokens: Tokens | float, cached_tokens: Tokens | float = 0) -> Floats | float:
        """Seconds to compute ``new_tokens`` after ``cached_tokens``, without host work; numbers or arrays.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").predict_s(2048)
        2.0
        """
        self._require_fit("predict_s")
        return ServerProfile(name="fit", coefficients=self.coefficients()).prefill_s(new_tokens, cached_tokens)

    def coefficients(
        self, *, host_s: float = 0.0, host_per_seq_s: float = 0.0, per_kv_token_mixed_s: float | None = None
    ) -> Coefficients:
        """The fitted values as ``Coefficients``; kernels hold no host work, so it is given here.

        ``per_kv_token_mixed_s`` None: nobody measured decodes beside a prefill chunk, and ``per_kv_token_s_`` stands in.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").coefficients(host_s=0.004).host_s
        0.004
        """
        self._require_fit("coefficients")
        return Coefficients(
            host_s=host_s,
            host_per_seq_s=host_per_seq_s,
            floor_s=self.floor_s_,
            base_s=self.base_s_,
            per_token_s=self.per_token_s_,
            attention_s=self.attention_s_,
            per_decode_s=self.per_decode_s_,
            per_kv_token_s=self.per_kv_token_s_,
            per_kv_token_mixed_s=self.per_kv_token_s_ if per_kv_token_mixed_s is None else per_kv_token_mixed_s,
        )

    @property
    def covariance_(self) -> Covariance:
        """Covariance of everything fitted so far; prefill and decode points are separate, so their blocks do not mix."""
        self._require_fit("covariance_")
        parts = list(self._covariances.values())
        names = tuple(name for part, _ in parts for name in part)
        whole = np.zeros((len(names), len(names)))
        at = 0
        for part, block in parts:
            whole[at : at + len(part), at : at + len(part)] = block
            at += len(part)
        return Covariance(names=names, matrix=tuple(map(tuple, whole.tolist())))

    @property
    def mape_(self) -> float:
        """Mean relative error over the rows with at least ``min_new`` new tokens."""
        return float(self._errors()[self._large].mean())

    @property
    def max_ape_(self) -> float:
        """Largest relative error over the rows with at least ``min_new`` new tokens."""
        return float(self._errors()[self._large].max())

    @property
    def mape_below_min_new_(self) -> float | None:
        """Mean relative error over the rows below ``min_new``, with the floor that now holds; None: no such rows."""
        errors = self._errors()[~self._large]
        return float(errors.mean()) if len(errors) else None

    def _errors(self) -> Floats:
        self._require_fit("error")
        n, c, y = self._points
        return np.abs(self.predict_s(n, c) / y - 1)

    def record(self, command: str) -> FitRecord:
        """How good the fit is, for a profile; ``command`` does it again.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").record("simcache fit points.csv").n
        2
        """
        self._require_fit("record")
        return FitRecord(
            n=self.n_,
            mape=self.mape_,
            max_ape=self.max_ape_,
            mape_below_min_new=self.mape_below_min_new_,
            decode_n=self.decode_n_,
            decode_mape=self.decode_mape_,
            command=command,
        )

    def summary(self) -> str:
        """A table of the fitted coefficients with standard errors, and the fit's errors.

        >>> print(LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").summary().splitlines()[0])
        LatencyModel, form linear, 2 prefill points
        """
        self._require_fit("summary")
        decode = "" if self.decode_n_ is None else f", {self.decode_n_} decode points"
        lines = [f"LatencyModel, form {self.form_}, {self.n_} prefill points{decode}"]
        lines.append(f"{'coefficient':<16}{'value':>12}{'std. error':>12}  unit")
        values = self.coefficients()
        for name, error in self.covariance_.standard_errors.items():
            lines.append(f"{name:<16}{getattr(values, name):>12.4g}{error:>12.2g}  {_UNIT[name]}")
        lines.append(f"mean relative error {self.mape_:.1%}, largest {self.max_ape_:.1%}")
        if (small := self.mape_below_min_new_) is not None:
            lines.append(f"below the shortest fitted length: {small:.1%} on {int((~self._large).sum())} points")
        if self.decode_mape_ is not None:
            lines.append(f"decode: mean relative error {self.decode_mape_:.1%}")
        (lo, hi), (c_lo, c_hi) = self.range_.new_tokens, self.range_.cached_tokens
        lines.append(f"measured for {lo} to {hi} new tokens after {c_lo} to {c_hi} cached")
        return "\n".join(lines)

    def plot(self, ax: Any) -> Any:
        """Draw points and fitted curves on the matplotlib axes ``ax``, for at most four of the contexts; returns ``ax``."""
        self._require_fit("plot")
        n, c, y = self._points
        contexts = np.unique(np.quantile(np.unique(c), [0, 1 / 3, 2 / 3, 1], method="nearest"))
        grid = np.geomspace(n.min(), n.max(), 200)
        for context in contexts:
            here = c == context
            ax.plot(n[here], y[here] * 1e3, ".", color=(shade := f"C{int(np.searchsorted(contexts, context))}"))
            ax.plot(grid, self.predict_s(grid, float(context)) * 1e3, "-", color=shade, label=f"{int(context)} cached")
        ax.set(xscale="log", yscale="log", xlabel="new tokens", ylabel="prefill, ms")
        ax.legend()
        return ax

    def _forget_decode(self) -> None:
        self.per_decode_s_ = self.per_kv_token_s_ = 0.0
        self.decode_mape_ = self.decode_n_ = None

    def _require_fit(self, name: str) -> None:
        if self.form_ is None:
            raise InputError(name, None, "needs a fitted model", "Call fit(new_tokens, cached_tokens, seconds) first.")


_UNIT: Final = {
    "floor_s": "s",
    "base_s": "s",
    "per_token_s": "s/token",
    "attention_s": "s/token^2",
    "per_decode_s": "s/sequence",
    "per_kv_token_s": "s/token",
}


def _columns(**columns: tuple[ArrayLike, float | None]) -> list[Floats]:
    """The named columns as floats: one length, finite, each at least its bound (None: above 0)."""
    arrays: list[Floats] = []
    for name, (values, at_least) in columns.items():
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(name, values, "must be numbers") from None
        require(array.ndim == 1, name, array.shape, "must be one column of numbers")
        bad = ~np.isfinite(array) | (array <= 0 if at_least is None else array < at_least)
        if bad.any():
            row = int(np.argmax(bad))
            rule = "must be finite and above 0" if at_least is None else f"must be finite and at least {at_least:g}"
            raise InputError(f"{name}[{row}]", float(array[row]), rule)
        arrays.append(array)
    lengths = {name: len(array) for name, array in zip(columns, arrays, strict=True)}
    require(len(set(lengths.values())) == 1, "columns", lengths, "must have one length")
    return arrays


def _require_rows(rows: int, names: tuple[str, ...], where: str) -> None:
    way_out = f"Measure more points{where}."
    require(
        rows >= len(names),
        "points",
        rows,
        f"{where.strip() + ' ' if where else ''}must be at least {len(names)}, one per coefficient ({', '.join(names)})",
        way_out,
    )


def _relative_least_squares(
    design: Floats, y: Floats, names: tuple[str, ...], known: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Coefficients x >= 0 that minimise sum (((known + design x) / y) - 1)^2, their covariance, the absolute relative errors."""
    from scipy.optimize import nnls

    target = np.ones_like(y) if known is None else 1 - known / y
    relative = design / y[:, None]
    scale = np.linalg.norm(relative, axis=0)
    require(bool((scale > 0).all()), "points", names[int(np.argmin(scale))], "is a coefficient that no row depends on")
    unit = relative / scale
    if np.linalg.matrix_rank(unit, tol=1e-9 * np.sqrt(len(y))) < len(names):
        raise InputError("points", len(y), f"cannot tell {', '.join(names)} apart", "Vary the columns independently of each other.")
    solution, _ = nnls(unit, target)
    residuals = unit @ solution - target
    free = solution > 0
    covariance = np.zeros((len(names), len(names)))
    if free.any():
        variance = float(residuals @ residuals) / max(len(y) - int(free.sum()), 1)
        inverse = np.linalg.inv(unit[:, free].T @ unit[:, free]) * variance
        covariance[np.ix_(free, free)] = inverse / np.outer(scale[free], scale[free])
    return solution / scale, covariance, np.abs(residuals)


def _floor(computed: Floats, y: Floats) -> tuple[float, float | None]:
    """The F that minimises sum (max(F, computed)/y - 1)^2, and its variance; (0, None) where no row says anything."""
    # The floor acts on a head of the rows in order of their computed time; for each head the best F is closed form.
    order = np.argsort(computed, kind="stable")
    computed, w = computed[order], 1 / y[order]
    best, best_loss, active = 0.0, float(((computed * w - 1) ** 2).sum()), 0
    for head in range(1, len(w) + 1):
        floor = float(w[:head].sum() / (w[:head] ** 2).sum())
        loss = float(((np.maximum(floor, computed) * w - 1) ** 2).sum())
        if loss < best_loss:
            best, best_loss, active = floor, loss, int((computed < floor).sum())
    if active < 2:  # one row fixes a floor but says nothing about its error
        return best, None
    return best, best_loss / max(len(w) - 1, 1) / float((w[:active] ** 2).sum())


def _bounds(values: Floats) -> tuple[int, int]:
    return int(np.floor(values.min())), int(np.ceil(values.max()))
