"""How good a fit is, and what a person reads of it: errors, residuals, where a line holds, a table, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import numpy as np

from ..errors import InputError
from .coefficients import Coefficients, Covariance, FitRecord, Floats, MeasuredRange, Tokens
from .fitting import MIN_NEW, Curve
from .form_choice import HoldoutKind, Points, holdout_mape, linear_window, residual_table


class FitQuality:
    """The half of ``LatencyModel`` that looks at a fit: predictions, errors, covariance, tables. Fits nothing itself."""

    form_: str
    n_: int
    range_: MeasuredRange
    decode_mape_: float | None
    decode_n_: int | None
    _points: Points
    _min_new: int | None
    _values: Coefficients
    _draws: dict[str, tuple[tuple[str, ...], Floats]]

    def __init__(self) -> None:
        self._curve: Curve | None = None

    @overload
    def predict_s(self, new_tokens: float, cached_tokens: float = 0) -> float: ...
    @overload
    def predict_s(self, new_tokens: Tokens, cached_tokens: Tokens | float = 0) -> Floats: ...
    @overload
    def predict_s(self, new_tokens: float, cached_tokens: Tokens) -> Floats: ...
    def predict_s(self, new_tokens: Tokens | float, cached_tokens: Tokens | float = 0) -> Floats | float:
        """Seconds to compute ``new_tokens`` after ``cached_tokens``, without host work; numbers or arrays.

        >>> from simcache.latency import LatencyModel
        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").predict_s(2048)
        2.0
        """
        self._fitted("predict_s")
        seconds: Floats | float = self._values.compute_s(new_tokens, new_tokens * (cached_tokens + new_tokens / 2))
        return seconds

    @property
    def points_(self) -> Points:
        """The prefill points: new tokens, cached tokens, seconds."""
        self._fitted("points_")
        return self._points

    def holdout_mape(self, kind: HoldoutKind = "random", share: float = 0.3, *, form: str | None = None) -> float | None:
        """Mean relative error on rows that the fit has not seen, refitted without them; None: too few remain.

        ``form`` None: the form of this fit, chosen once with all rows.

        >>> from simcache.latency import LatencyModel
        >>> model = LatencyModel().fit([256, 512, 1024, 2048], [0] * 4, [0.25, 0.5, 1.0, 2.0], form="linear")
        >>> round(model.holdout_mape("extrapolate-new"), 6)
        0.0
        """
        asked = form or self._fitted("holdout_mape").form
        return holdout_mape(self._points, asked, kind, share, self._min_new)

    @property
    def covariance_(self) -> Covariance:
        """Covariance of everything fitted so far; prefill and decode points are separate, so their blocks do not mix."""
        self._fitted("covariance_")
        names = tuple(name for part, _ in self._draws.values() for name in part)
        whole = np.zeros((len(names), len(names)))
        at = 0
        for part, draws in self._draws.values():
            whole[at : at + len(part), at : at + len(part)] = np.cov(draws, rowvar=False)
            at += len(part)
        return Covariance(names=names, matrix=tuple(map(tuple, whole.tolist())))

    @property
    def errors_(self) -> Floats:
        """Signed relative errors, predicted/measured - 1, in the order of the points."""
        self._fitted("errors_")
        n, c, y = self._points
        return self.predict_s(n, c) / y - 1

    @property
    def mape_(self) -> float:
        """Mean relative error over all prefill rows."""
        return float(np.abs(self.errors_).mean())

    @property
    def p95_ape_(self) -> float:
        """The relative error that 95 % of the prefill rows stay under."""
        return float(np.quantile(np.abs(self.errors_), 0.95))

    @property
    def max_ape_(self) -> float:
        """Largest relative error over all prefill rows."""
        return float(np.abs(self.errors_).max())

    @property
    def mape_below_min_new_(self) -> float | None:
        """Mean relative error over rows below ``min_new`` (256 unless given); None: no such rows."""
        found = np.abs(self.errors_)[self._points[0] < (MIN_NEW if self._min_new is None else self._min_new)]
        return float(found.mean()) if len(found) else None

    @property
    def residuals_(self) -> list[dict[str, Any]]:
        """Mean signed and mean relative error by octave of new tokens and by context, rows of ``residual_table``."""
        return residual_table(self._points, self.errors_)

    @property
    def linear_window_(self) -> dict[str, Any] | None:
        """Where a straight line holds within 5 %: the widest range of new tokens at one context; None where nowhere."""
        self._fitted("linear_window_")
        return linear_window(self._points)

    def record(self, command: str) -> FitRecord:
        """How good the fit is, for a profile; ``command`` does it again.

        >>> from simcache.latency import LatencyModel
        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").record("simcache fit points.csv").n
        2
        """
        self._fitted("record")
        return FitRecord(
            n=self.n_,
            mape=self.mape_,
            max_ape=self.max_ape_,
            p95_ape=self.p95_ape_,
            mape_below_min_new=self.mape_below_min_new_,
            decode_n=self.decode_n_,
            decode_mape=self.decode_mape_,
            command=command,
        )

    def summary(self) -> str:
        """A table of the fitted coefficients with standard errors, and the fit's errors.

        >>> from simcache.latency import LatencyModel
        >>> print(LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").summary().splitlines()[0])
        LatencyModel, form linear, 2 prefill points
        """
        self._fitted("summary")
        decode = "" if self.decode_n_ is None else f", {self.decode_n_} decode points"
        lines = [f"LatencyModel, form {self.form_}, {self.n_} prefill points{decode}"]
        lines.append(f"{'coefficient':<20}{'value':>12}{'std. error':>12}  unit")
        standard_errors: Mapping[str, float] = self.covariance_.standard_errors if self._draws else {}
        for name, value in vars(self._values).items():
            if value or (name == "decode_s" and value is not None):
                error = f"{standard_errors[name]:.2g}" if name in standard_errors else "-"
                lines.append(f"{name:<20}{value:>12.4g}{error:>12}  {_unit(name)}")
        lines.append(f"mean relative error {self.mape_:.1%}, 95 % of points under {self.p95_ape_:.1%}, largest {self.max_ape_:.1%}")
        if (small := self.mape_below_min_new_) is not None:
            lines.append(f"below {MIN_NEW if self._min_new is None else self._min_new} new tokens: {small:.1%}")
        if self.decode_mape_ is not None:
            lines.append(f"decode: mean relative error {self.decode_mape_:.1%}")
        (lo, hi), (c_lo, c_hi) = self.range_.new_tokens, self.range_.cached_tokens
        lines.append(f"measured for {lo} to {hi} new tokens after {c_lo} to {c_hi} cached")
        return "\n".join(lines)

    def plot(self, ax: Any) -> Any:
        """Draw points and fitted curves on the matplotlib axes ``ax``, for at most four of the contexts; returns ``ax``."""
        self._fitted("plot")
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

    def __getattr__(self, name: str) -> Any:
        # Every coefficient is a fitted value: per_token_s_ of Coefficients.per_token_s.
        if name.endswith("_") and name[:-1] in Coefficients.__dataclass_fields__ and not name.startswith("_"):
            self._fitted(name)
            return getattr(self._values, name[:-1])
        if name in ("form_", "form_errors_", "range_", "n_", "decode_n_", "decode_mape_", "_points", "_min_new", "_draws"):
            self._fitted(name)
        raise AttributeError(name)

    def _fitted(self, name: str) -> Curve:
        if self._curve is None:
            raise InputError(name, None, "needs a fitted model", "Call fit(new_tokens, cached_tokens, seconds) first.")
        return self._curve


def _unit(name: str) -> str:
    if name.endswith("_tokens"):
        return "tokens"
    if name in ("attention_s", "small_attention_s", "quadratic_s"):
        return "s/token^2"
    if name in ("per_decode_s", "host_per_seq_s"):
        return "s/sequence"
    return "s/token" if "per_" in name else "s"
