"""What a provider caches, for whom, from when and for how long: dated facts loaded from TOML, without prices."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

from ..errors import InputError, UnknownNameError, require, require_count, require_number
from ..prompt import Request

PROVIDERS_FOLDER: Final = Path(__file__).parent.parent / "data" / "providers"

Matching = Literal["prefix at unit", "exact at breakpoints"]
LifetimeKind = Literal["sliding maximum", "guaranteed minimum", "best effort"]
CountedFrom = Literal["request start", "visible"]
Visible = Literal["scheduled", "first_response", "finished"]
Scope = Literal["organisation", "workspace", "user"]


@dataclass(frozen=True, kw_only=True)
class ProviderRules:
    """The cache rules of one provider at one date; counts in tokens, spans in seconds.

    ``matching``: "prefix at unit" finds the longest stored prefix, floored to ``unit_tokens``; "exact at breakpoints" finds
    what was stored up to a breakpoint (the end of a request's shared segments), checking ``lookback_positions`` segment
    ends from the new breakpoint backwards (None: all of them).
    ``min_tokens`` holds for models that ``min_tokens_by_model`` does not list (a name there also covers dated names of it).
    ``lifetime_s`` per lifetime name; every read refreshes it. ``lifetime_kind`` says how far to trust it, ``counted_from``
    which instant starts it. ``visibility``: when a request's entry can be hit by others.
    ``scope``: who shares entries (a request's ``organisation`` stands for a workspace too).
    ``bills_writes``: whether written tokens are a bill line of their own. ``bills_cancelled``: a request given up during
    its computation is billed, and then its entry appears all the same; False: neither.
    ``warm_output_tokens``: the least output that the provider lets a warm-up ask for.

    >>> load_rules("openai-2024").min_tokens
    1024
    """

    name: str
    provider: str
    as_of: str
    source: str
    matching: Matching
    min_tokens: int
    min_tokens_by_model: Mapping[str, int] = field(default_factory=dict, hash=False)
    unit_tokens: int
    lookback_positions: int | None = None
    lifetime_s: Mapping[str, float] = field(hash=False)
    lifetime_kind: LifetimeKind
    counted_from: CountedFrom
    visibility: Visible
    scope: Scope
    bills_writes: bool
    counts_cached_reads_in_rate_limit: bool
    bills_cancelled: bool
    warm_output_tokens: int

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, getattr(self, name), f"must be one of {', '.join(map(repr, choices))}")
        for name in ("name", "provider", "as_of", "source"):
            value = getattr(self, name)
            require(isinstance(value, str) and bool(value), name, value, "must be a text that is not empty")
        for name in ("bills_writes", "counts_cached_reads_in_rate_limit", "bills_cancelled"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "must be true or false")
        require_count("min_tokens", self.min_tokens, at_least=0)
        require_count("unit_tokens", self.unit_tokens)
        require_count("warm_output_tokens", self.warm_output_tokens, at_least=0)
        if self.lookback_positions is not None:
            require_count("lookback_positions", self.lookback_positions)
        for table in ("min_tokens_by_model", "lifetime_s"):
            require(isinstance(getattr(self, table), Mapping), table, getattr(self, table), "must be a table")
        for model, tokens in self.min_tokens_by_model.items():
            require_count(f"min_tokens_by_model.{model}", tokens, at_least=0)
        require(bool(self.lifetime_s), "lifetime_s", dict(self.lifetime_s), "must name at least one lifetime")
        for ttl, lifetime_s in self.lifetime_s.items():
            require_number(f"lifetime_s.{ttl}", lifetime_s, above=0)

    def min_tokens_of(self, model: str) -> int:
        """The shortest prefix of ``model`` that is cached.

        >>> load_rules("anthropic").min_tokens_of("claude-haiku-4-5-20251001")
        4096
        """
        listed = self._listed(model)
        return self.min_tokens if listed is None else self.min_tokens_by_model[listed]

    def lifetime_of(self, ttl: str) -> float:
        """Seconds of the lifetime named ``ttl``. Errors: a name that the provider does not offer.

        >>> load_rules("anthropic").lifetime_of("1h")
        3600
        """
        if ttl not in self.lifetime_s:
            raise UnknownNameError("cache_ttl", ttl, self.lifetime_s)
        return self.lifetime_s[ttl]

    def scope_of(self, request: Request) -> Hashable:
        """The namespace in which ``request`` finds and stores entries.

        >>> from simcache.prompt import Segment
        >>> r = Request(0.0, (), Segment("a", 1), organisation="acme", user="ann")
        >>> load_rules("anthropic").scope_of(r)
        ('acme', None, None)
        """
        return (request.organisation, request.user if self.scope == "user" else None, request.salt)

    def notes(self, model: str) -> list[str]:
        """What a result under these rules should say about them: guesses and lifetimes that are not sharp.

        >>> load_rules("anthropic").notes("claude-sonnet-4-5")
        []
        """
        said = []
        if self.min_tokens_by_model and self._listed(model) is None:
            said.append(f"{self.name}: minimum of {model} not listed, {self.min_tokens} tokens assumed")
        if self.lifetime_kind == "guaranteed minimum":
            said.append(f"{self.name}: entries may live longer than simulated (the lifetime is a guaranteed minimum)")
        if self.lifetime_kind == "best effort":
            said.append(f"{self.name}: entries may die earlier or live longer than simulated (best effort)")
        return said

    def _listed(self, model: str) -> str | None:
        matches = (key for key in self.min_tokens_by_model if re.fullmatch(re.escape(key) + _MODEL_SUFFIX, model))
        return next(matches, None)


# What a provider appends to a model's name without making it another model.
_MODEL_SUFFIX: Final = r"(-0|-latest|[-@]\d{8})?"
_CHOICES: Final = {
    name: get_args(kind)
    for name, kind in (
        ("matching", Matching),
        ("lifetime_kind", LifetimeKind),
        ("counted_from", CountedFrom),
        ("visibility", Visible),
        ("scope", Scope),
    )
}


def rules_names() -> list[str]:
    """Names of the shipped rules.

    >>> rules_names()
    ['anthropic', 'openai-2024']
    """
    return sorted(path.stem for path in PROVIDERS_FOLDER.glob("*.toml"))


def load_rules(name_or_path: str | Path) -> ProviderRules:
    """The shipped rules called ``name_or_path``, or those in the TOML file at that path (a name that ends in .toml).

    Errors: an unknown name (near names in the error); a file with missing, unknown or impossible keys.

    >>> load_rules("anthropic").lookback_positions
    20
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if str(name_or_path) not in rules_names():
            raise UnknownNameError("rules", str(name_or_path), rules_names())
        path = PROVIDERS_FOLDER / f"{name_or_path}.toml"
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError("rules", path.name, f"cannot be read: {error.strerror}", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("rules", path.name, f"is not valid TOML: {error}", path=path) from None
    return _from_table(raw, path)


def rules_of(provider: str) -> ProviderRules:
    """The shipped rules of ``provider``, where there is one set. Errors: none, or several to choose from.

    >>> rules_of("openai").name
    'openai-2024'
    """
    every = [load_rules(name) for name in rules_names()]
    own = [rules for rules in every if rules.provider == provider]
    if not own:
        raise UnknownNameError("provider", provider, {rules.provider for rules in every})
    require(len(own) == 1, "provider", provider, f"has several sets of rules: {', '.join(r.name for r in own)}", "Set `rules`.")
    return own[0]


def _from_table(raw: Mapping[str, Any], path: Path) -> ProviderRules:
    known = {f.name: f for f in fields(ProviderRules) if f.name != "name"}
    for key in raw:
        if key not in known:
            raise UnknownNameError("key", key, known, path=path)
    for key, spec in known.items():
        if key not in raw and spec.default is MISSING and spec.default_factory is MISSING:
            raise InputError(
                key, None, "is missing", f"Every rules file states it ({get_type_hints(ProviderRules)[key]}).", path=path
            )
    try:
        return ProviderRules(name=path.stem, **raw)
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from None
