"""The shipped rules of providers, files of your own, and which of them hold for a model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError, UnknownNameError, require
from .rules import Peak, ProviderRules, best_key

PROVIDERS_FOLDER: Final = Path(__file__).parent.parent / "data" / "providers"


def rules_names() -> list[str]:
    """Names of the shipped rules.

    >>> rules_names()[:3]
    ['anthropic', 'azure', 'azure-5.6']
    """
    return sorted(path.stem for path in PROVIDERS_FOLDER.glob("*.toml"))


def load_rules(name_or_path: str | Path) -> ProviderRules:
    """The shipped rules called ``name_or_path``, or those in the TOML file at that path (a name that ends in .toml).

    Errors: an unknown name (near names in the error); a file with missing, unknown or impossible keys.

    >>> load_rules("anthropic").lookback_positions
    20
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _read(path)
    if str(name_or_path) not in rules_names():
        raise UnknownNameError("rules", str(name_or_path), rules_names())
    return _shipped(str(name_or_path))


@cache
def _shipped(name: str) -> ProviderRules:
    return _read(PROVIDERS_FOLDER / f"{name}.toml")


def _read(path: Path) -> ProviderRules:
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError("rules", path.name, f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of 5,000 digits, a thousand brackets
        raise InputError("rules", path.name, f"is not valid TOML: {error}", path=path) from None
    return _from_table(raw, path)


def rules_of(provider: str, model: str | None = None, *, zero_data_retention: bool = False) -> ProviderRules:
    """The shipped rules that hold for ``model`` at ``provider`` (a name or an alias, in any case) where none are asked for.

    Rules made for the model come before those for all models. ``zero_data_retention`` leaves out rules that store data.
    Errors: an unknown provider; nothing left that may be used.

    >>> [rules_of("openai", model).name for model in ("gpt-4o", "gpt-5.5", "gpt-5.6-sol")]
    ['openai-2024', 'openai-24h', 'openai-5.6']
    """
    provider = provider.lower()
    # A file that does not hold the name cannot be the provider's: reading few is what a closed form has time for.
    own = [load_rules(name) for name in rules_names() if provider in (PROVIDERS_FOLDER / f"{name}.toml").read_text("utf-8")]
    own = [rules for rules in own if provider in (rules.provider, *rules.aliases)]
    if not own:
        raise UnknownNameError("provider", provider, _provider_names())
    named = [rules for rules in own if model is not None and best_key(model, rules.models) is not None]
    fitting = [rules for rules in named or own if rules.default and (named or not rules.models)]
    if zero_data_retention:
        fitting = [rules for rules in fitting if not rules.stores_data]
        if not fitting:
            others = [rules.name for rules in own if not rules.stores_data and not rules.models]
            way_out = f"Name other rules ({', '.join(others)}) if your model may use them." if others else "Use another provider."
            raise InputError(
                "zero_data_retention", True, f"rules out how {provider} caches {model or 'prompts'}: it stores data", way_out
            )
    assert len(fitting) == 1, f"{provider} {model}: {[rules.name for rules in fitting]}"
    return fitting[0]


def _provider_names() -> set[str]:
    return {name for each in map(load_rules, rules_names()) for name in (each.provider, *each.aliases)}


def rules_for(provider: str, model: str, rules: str | None, *, zero_data_retention: bool = False) -> ProviderRules:
    """The rules called ``rules`` (a name or a TOML path), or where that is None those of :func:`rules_of`.

    Errors: as there; rules of another provider; rules that store data although none may be retained.

    >>> rules_for("openai", "gpt-4o", None).name, rules_for("openai", "gpt-4.1", "openai-24h").name
    ('openai-2024', 'openai-24h')
    """
    if rules is None:
        return rules_of(provider, model, zero_data_retention=zero_data_retention)
    loaded = load_rules(rules)
    provider = provider.lower()
    names = (loaded.provider, *loaded.aliases)
    if provider not in names:
        if provider not in _provider_names():
            raise UnknownNameError("provider", provider, {*names, *_provider_names()})
        rule = f"is not the provider of rules {loaded.name!r}, which is {' or '.join(map(repr, names))}"
        raise InputError("provider", provider, rule, "For one provider's rules at another's prices write a file of your own.")
    if zero_data_retention and loaded.stores_data:
        raise InputError("rules", rules, "store data, which zero_data_retention rules out", "See `simcache providers`.")
    return loaded


def notes_on(rules: ProviderRules, model: str) -> list[str]:
    """What a result for ``model`` under ``rules`` should say: guesses, lifetimes that are not sharp, rules made for other models.

    >>> notes_on(load_rules("openai-2024"), "gpt-5.5")[-1]
    'openai-2024: openai-24h holds for gpt-5.5'
    """
    said = rules.notes(model)
    others = [load_rules(name) for name in rules_names()]
    own = [each.name for each in others if each.provider == rules.provider and best_key(model, each.models) is not None]
    if own and rules.name in rules_names() and rules.name not in own:
        said.append(f"{rules.name}: {' or '.join(own)} holds for {model}")
    return said


def _from_table(raw: Mapping[str, Any], path: Path) -> ProviderRules:
    known = {f.name: f for f in fields(ProviderRules) if f.name != "name"}
    for key in raw:
        if key not in known:
            raise UnknownNameError("key", key, known, path=path)
    for key, spec in known.items():
        if key not in raw and spec.default is MISSING and spec.default_factory is MISSING:
            hint = get_type_hints(ProviderRules)[key]
            kind = ", ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
            raise InputError(key, None, "is missing", f"Every rules file states it ({kind}).", path=path)
    values = dict(raw)
    try:
        for key in ("aliases", "models"):
            if key in values:
                values[key] = _texts(key, values[key])
        if "peaks" in values:
            values["peaks"] = tuple(_peak(i, table) for i, table in enumerate(values["peaks"]))
        return ProviderRules(name=path.stem, **values)
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    require(isinstance(value, list) and all(isinstance(text, str) for text in value), name, value, "must be a list of texts")
    return tuple(value)


def _peak(index: int, table: Any) -> Peak:
    known = [f.name for f in fields(Peak)]
    if not isinstance(table, Mapping):
        raise InputError(f"peaks[{index}]", table, "must be a table")
    for key in table:
        if key not in known:
            raise UnknownNameError(f"peaks[{index}]", key, known)
    for key in known[:3]:
        require(key in table, f"peaks[{index}].{key}", None, "is missing")
    lists = {key: _texts(f"peaks[{index}].{key}", table.get(key, [])) for key in ("weekdays", "models")}
    return Peak(**{**table, **lists})
