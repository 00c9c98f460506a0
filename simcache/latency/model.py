"""Latency of prefill and decode: the form, its fit to measurements, and the profiles that carry the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, UnknownNameError, require, require_count
from .coefficients import Coefficients, Covariance, FitRecord, Floats, Form, MeasuredRange
from .fit_quality import FitQuality
from .fitting import FITTED_FORMS, fit_curve, fit_plane, floor_slope
from .form_choice import choose_form
from .prediction import predict
from .profile_kinds import HostedProfile, ServerProfile
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

_NOT_IDENTIFIED: Final = {
    "per_decode_s": "the cost of a one-token chunk, per_token_s",
    "per_kv_token_s": "what a new token pays per token before it, attention_s of a small chunk",
    "per_kv_token_mixed_s": "per_kv_token_s",
}
"""What stands in for a coefficient that no point identifies."""


_ANOTHER_UNIT: Final = 30.0  # no form misses a point by this factor; a time in ms among seconds is off by 1,000


class LatencyModel(FitQuality):
    """Prefill and decode time of one engine step, fitted to measured points.

    The forms, for n new tokens after c cached ones, each never below a floor ``floor + floor_per_token*n`` of short prompts:

    - ``linear``: base + per_token*n;  ``quadratic``: ... + quadratic*n*n/2
    - ``context``: base + per_token*n + attention*n*(c + n/2): suffix tokens still attend to the cached prefix, so a hit does
      not save its share; ``context-small``: with an attention of its own for chunks below a size that is found
    - ``piecewise``: context, with up to three costs per token by length; the knots are found

    A decode step of b sequences that read K kv tokens takes ``d0 + d1*b + d2*K``.

    The fit. Relative least squares (the sum of squared relative residuals is smallest), no coefficient below 0. Standard errors
    are those of a bootstrap of residuals, in blocks of neighbours where neighbours are alike. A coefficient that the fit holds
    at 0 has standard error 0; thresholds and knots have none.

    Fitted: ``form_``, ``base_s_``, ``per_token_s_``, ``attention_s_``, ``floor_s_`` and every other name of ``Coefficients``
    with ``_`` behind it; ``covariance_`` (with ``.standard_errors``); ``mape_``, ``p95_ape_``, ``max_ape_``, fractions;
    ``n_`` rows; ``range_``; ``form_errors_``: the error of each form on extrapolating folds, where the form was chosen by them.
    After ``fit_decode`` also ``decode_mape_``, ``decode_n_``.

    >>> model = LatencyModel().fit([512, 1024, 2048, 4096], [0, 0, 0, 0], [0.06, 0.11, 0.21, 0.41], form="linear")
    >>> round(model.predict_s(1000), 3)
    0.108
    """

    def fit(
        self,
        new_tokens: ArrayLike,
        cached_tokens: ArrayLike,
        seconds: ArrayLike,
        form: Form | Literal["auto"] = "auto",
        *,
        min_new: int | None = None,
    ) -> LatencyModel:
        """Fit prefill points: row i computed ``new_tokens[i]`` (>= 1) after ``cached_tokens[i]`` in ``seconds[i]`` (> 0).

        ``form`` "auto" takes the form with the least error on folds that hold out the largest rows. Rows with fewer than
        ``min_new`` new tokens decide the floor, the others the curve; None finds where the floor ends, at most at 256.
        Raises InputError for columns of unequal length, values that are missing, infinite or out of range, fewer rows than
        coefficients, and rows that cannot tell the coefficients apart. Forgets an earlier fit.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear").n_
        2
        """
        if form not in (*FITTED_FORMS, "auto"):
            raise UnknownNameError("form", form, (*FITTED_FORMS, "auto"))
        if min_new is not None:
            require_count("min_new", min_new, at_least=0)
        n, c, y = _columns(new_tokens=(new_tokens, 1.0), cached_tokens=(cached_tokens, 0.0), seconds=(seconds, None))
        require(
            len(n) > (2 if form == "auto" else 0), "points", len(n), "must be at least 3 prefill points", "Measure more points."
        )
        self.form_errors_: dict[str, float] = {}
        chosen: str = form
        if form == "auto":
            chosen, self.form_errors_ = choose_form((n, c, y), min_new)
        self._curve = curve = fit_curve(n, c, y, chosen, min_new)
        self.form_ = curve.form
        self._points, self._min_new = (n, c, y), min_new
        self._values = curve.coefficients
        self._draws: dict[str, tuple[tuple[str, ...], Floats]] = {"prefill": (curve.names, curve.draws)} if curve.names else {}
        self._identified = {"per_decode_s": False, "per_kv_token_s": False, "per_kv_token_mixed_s": False}
        self.decode_mape_: float | None = None
        self.decode_n_: int | None = None
        off = np.abs(np.log((1 + self.errors_) + 1e-12))
        row = int(np.argmax(off))
        if off[row] > np.log(_ANOTHER_UNIT):
            times = np.exp(off[row])
            raise InputError(
                f"seconds[{row}]",
                float(y[row]),
                f"is {times:,.0f} times away from what the other rows say of {n[row]:g} new and {c[row]:g} cached tokens",
                "Are units mixed? Give every time in seconds.",
            )
        self.n_ = len(n)
        self.range_ = MeasuredRange(new_tokens=_bounds(n), cached_tokens=_bounds(c), total_tokens=_bounds(n + c))
        return self

    def fit_decode(self, batch: ArrayLike, kv_tokens: ArrayLike, seconds: ArrayLike) -> LatencyModel:
        """Fit decode points ``d0 + d1*batch + d2*kv_tokens``; row i decoded ``batch[i]`` >= 1 sequences of ``kv_tokens[i]`` in all.

        A decode step reads every weight once, as a short prefill does: d0 replaces ``floor_s_``, and the floor's slope is fitted
        again to the short prompts. Where that suits the prompts less than their own floor does (by a tenth of the squared error,
        unless ``min_new`` was given), or d0 lies below ``base_s_``, it is kept apart, as ``decode_s_``. Either way
        the coefficients give d0 + d1*b + d2*K exactly. What the points cannot identify (one batch size only: d1) takes its
        stated default, see ``unidentified_``. Raises InputError as ``fit`` does, and where ``fit`` has not been called.

        >>> model = LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear")
        >>> round(model.fit_decode([1, 2, 2, 4], [10, 20, 90, 40], [0.0211, 0.0222, 0.0229, 0.0244]).floor_s_, 6)
        0.02
        """
        curve = self._fitted("fit_decode")
        b, k, y = _columns(batch=(batch, 1.0), kv_tokens=(kv_tokens, 0.0), seconds=(seconds, None))
        wanted = ["per_decode_s", "per_kv_token_s"]
        if len(np.unique(b)) == 1 and len(b) > 1:
            wanted.remove("per_decode_s")
        if len(np.unique(k)) == 1 and len(b) > 1:
            wanted.remove("per_kv_token_s")
        columns = {"per_decode_s": b, "per_kv_token_s": k}
        defaults = self._defaults()
        known = sum((defaults[name] * columns[name] for name in columns if name not in wanted), np.zeros_like(y))
        # What stands in must leave something to the step: measured time is an upper bound of any part of it.
        known = np.minimum(known, 0.9 * y)
        names = ("floor_s", *wanted)
        _require_rows(len(b), names)
        design = np.column_stack([np.ones_like(b), *(columns[name] for name in wanted)])
        values, draws, ape = fit_plane(design, y, names, known)
        found = dict(zip(names, values.tolist(), strict=True))
        d0 = found.pop("floor_s")
        self._identified |= dict.fromkeys(found, True)
        self._draws["decode"] = (names, draws)
        shared = self._with_floor(d0)
        if shared is None:
            self._values = replace(curve.coefficients, decode_s=d0)
            self._draws["decode"] = (("decode_s", *wanted), draws)
        else:
            self._values = shared
            self._drop_draws("floor_s", "floor_per_token_s")
        self._values = replace(
            self._values,
            per_decode_s=found.get("per_decode_s", defaults["per_decode_s"]),
            per_kv_token_s=found.get("per_kv_token_s", defaults["per_kv_token_s"]),
            per_kv_token_mixed_s=found.get("per_kv_token_s", defaults["per_kv_token_s"]),
        )
        self.decode_mape_, self.decode_n_ = float(ape.mean()), len(b)
        self.range_ = replace(self.range_, batch=_bounds(b), kv_tokens=_bounds(k))
        return self

    def fit_mixed(
        self, new_tokens: ArrayLike, cached_tokens: ArrayLike, batch: ArrayLike, kv_tokens: ArrayLike, seconds: ArrayLike
    ) -> LatencyModel:
        """Fit ``per_kv_token_mixed_s`` to steps of one chunk beside decodes; what the rest of the step costs is known by then.

        Raises InputError where ``fit_decode`` has not been called, and for rows out of range.

        >>> model = LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear")
        >>> _ = model.fit_decode([1, 2, 2, 4], [10, 20, 90, 40], [0.0211, 0.0222, 0.0229, 0.0244])
        >>> round(model.fit_mixed([512], [0], [2], [100], [0.0822]).per_kv_token_mixed_s_, 5)
        0.0002
        """
        self._fitted("fit_mixed")
        require(self.decode_n_ is not None, "fit_mixed", None, "needs decode points", "Call fit_decode first.")
        n, c, b, k, y = _columns(
            new_tokens=(new_tokens, 1.0),
            cached_tokens=(cached_tokens, 0.0),
            batch=(batch, 1.0),
            kv_tokens=(kv_tokens, 1.0),
            seconds=(seconds, None),
        )
        require(len(n) > 0, "points", 0, "must hold at least one mixed step")
        beside = self._values.compute_s(n, n * (c + n / 2)) + self._values.per_decode_s * b
        values, draws, _ = fit_plane(k[:, None], y, ("per_kv_token_mixed_s",), beside)
        if values[0] > 0:
            self._values = replace(self._values, per_kv_token_mixed_s=float(values[0]))
            self._identified["per_kv_token_mixed_s"] = True
            if len(n) > 1:
                self._draws["mixed"] = (("per_kv_token_mixed_s",), draws)
        return self

    def fit_host(self, sequences: ArrayLike, seconds: ArrayLike) -> LatencyModel:
        """Fit the host's work per engine step, ``host_s + host_per_seq_s*sequences``; one batch size gives ``host_s`` alone.

        >>> model = LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear").fit_host([8, 128], [0.0037, 0.0122])
        >>> round(model.host_per_seq_s_ * 1e6, 1)
        70.8
        """
        self._fitted("fit_host")
        s, y = _columns(sequences=(sequences, 1.0), seconds=(seconds, None))
        require(len(s) > 0, "points", 0, "must hold at least one host time")
        names = ("host_s", "host_per_seq_s") if len(np.unique(s)) > 1 else ("host_s",)
        values, draws, _ = fit_plane(np.column_stack([np.ones_like(s), s])[:, : len(names)], y, names)
        self._values = replace(self._values, **dict(zip(names, values.tolist(), strict=True)))
        if len(s) > len(names):
            self._draws["host"] = (names, draws)
        return self

    def set_host(self, host_s: float, host_per_seq_s: float = 0.0) -> LatencyModel:
        """State the host's work per engine step where it was not measured.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.06, 0.11], form="linear").set_host(0.004).host_s_
        0.004
        """
        self._fitted("set_host")
        self._values = replace(self._values, host_s=host_s, host_per_seq_s=host_per_seq_s)
        self._draws.pop("host", None)
        return self

    def interval95_s(self, new_tokens: int, cached_tokens: int = 0) -> tuple[float, float]:
        """Where one measurement of ``predict_s`` lies with 95 %: the error of the coefficients and what the points scatter.

        >>> model = LatencyModel().fit([512, 1024, 2048], [0, 0, 0], [0.5, 1.1, 2.0], form="linear")
        >>> low, high = model.interval95_s(1024); low < model.predict_s(1024) < high
        True
        """
        return predict(self.profile("fit"), int(new_tokens), int(cached_tokens)).interval95["prefill_s"]

    def coefficients(
        self, *, host_s: float | None = None, host_per_seq_s: float | None = None, per_kv_token_mixed_s: float | None = None
    ) -> Coefficients:
        """The fitted values as ``Coefficients``; kernels hold no host work, so it may be given here.

        ``per_kv_token_mixed_s`` None: the fitted value, and where nobody measured decodes beside a chunk, ``per_kv_token_s_``.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").coefficients(host_s=0.004).host_s
        0.004
        """
        self._fitted("coefficients")
        given: dict[str, Any] = {"host_s": host_s, "host_per_seq_s": host_per_seq_s, "per_kv_token_mixed_s": per_kv_token_mixed_s}
        return replace(self._values, **{name: value for name, value in given.items() if value is not None})

    @property
    def unidentified_(self) -> dict[str, str]:
        """Coefficients that no point decides, each with the stated default that stands in for it in ``profile``.

        >>> list(LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").unidentified_)
        ['per_decode_s', 'per_kv_token_s', 'per_kv_token_mixed_s']
        """
        self._fitted("unidentified_")
        return {name: text for name, text in _NOT_IDENTIFIED.items() if not self._identified[name]}

    def profile(self, name: str, **about: Any) -> ServerProfile:
        """A server profile of the fit; ``about`` are further fields of ``ServerProfile``. Unidentified coefficients are noted.

        >>> LatencyModel().fit([512, 1024], [0, 0], [0.5, 1.0], form="linear").profile("toy").form
        'linear'
        """
        self._fitted("profile")
        values = self._values
        if self.decode_n_ is None:
            values = replace(values, **self._defaults())
        notes = tuple(f"{each} was not identified by the points: it is {text}." for each, text in self.unidentified_.items())
        settled: dict[str, Any] = {"provenance": "measured", "fit": self.record("")}
        settled |= about
        settled["notes"] = (*about.get("notes", ()), *notes)
        return ServerProfile(
            name=name,
            coefficients=values,
            form=self.form_,  # type: ignore[arg-type]
            range=self.range_,
            covariance=self.covariance_ if self._draws else None,
            defaults=tuple(self.unidentified_),
            **settled,
        )

    def save(self, path: str | Path, name: str = "fit") -> None:
        """Write the fit as a profile in TOML; ``load_profile`` and ``LatencyModel.load`` read it."""
        save_profile(self.profile(name), path)

    @staticmethod
    def load(path: str | Path) -> ServerProfile:
        """The server profile in a TOML file: it predicts as the fit that wrote it does. Raises InputError for another kind."""
        profile = load_profile(path)
        if not isinstance(profile, ServerProfile):
            raise InputError("path", str(path), "must hold the profile of a server")
        return profile

    def _defaults(self) -> dict[str, Any]:
        curve = self._fitted("defaults").coefficients
        per_kv_s = float(curve.attention_at_s(1))
        return {
            "per_decode_s": float(curve.tokens_s(1) - curve.tokens_s(0)),
            "per_kv_token_s": per_kv_s,
            "per_kv_token_mixed_s": per_kv_s,
        }

    def _with_floor(self, floor_s: float) -> Coefficients | None:
        """The curve over a floor that begins at ``floor_s``; None where decode steps and short prompts do not share one."""
        n, c, y = self._points
        own = self._fitted("floor").coefficients
        if floor_s < own.base_s or own.small_below_tokens:
            return None
        attended = n * (c + n / 2)
        bare = replace(own, floor_s=0.0, floor_per_token_s=0.0)
        slope = floor_slope(n, bare.compute_s(n, attended), y, floor_s, own.per_token_s)
        shared = replace(own, floor_s=floor_s, floor_per_token_s=slope)
        loss, own_loss = (float(((each.compute_s(n, attended) / y - 1) ** 2).sum()) for each in (shared, own))
        return None if self._min_new is None and own_loss < 0.9 * loss else shared

    def _drop_draws(self, *names: str) -> None:
        part, draws = self._draws.get("prefill", ((), np.empty((0, 0))))
        keep = [i for i, name in enumerate(part) if name not in names]
        if keep:
            self._draws["prefill"] = (tuple(part[i] for i in keep), draws[:, keep])


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


def _require_rows(rows: int, names: tuple[str, ...]) -> None:
    rule = f"must be at least {len(names)}, one per coefficient ({', '.join(names)})"
    require(rows >= len(names), "points", rows, rule, "Measure more points.")


def _bounds(values: Floats) -> tuple[int, int]:
    return int(np.floor(values.min())), int(np.ceil(values.max()))
