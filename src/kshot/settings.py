"""Objects to plain settings and back: what a recipe names, a saved learner carries, and `kshot list` prints.

One convention makes it work: a constructor keeps each argument as an attribute of the same name (`loss` as `criterion`).
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from kshot.hypergradients import HYPERGRADIENTS, Hypergradient
from kshot.learner import LOSSES, MetaLearner
from kshot.learners import LEARNERS
from kshot.models import MODELS
from kshot.rules import RULES
from kshot.types import InputError, identities

Settings = dict[str, Any]

# Which table an argument's value is looked up in.
_TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "learner": LEARNERS,
    "model": MODELS,
    "encoder": MODELS,
    "relation": MODELS,
    "rule": RULES,
    "hypergradient": HYPERGRADIENTS,
}
_UNKNOWN = "not rebuildable"
MOST = 40  # names that an error lists
_PLAIN = (str, int, float, type(None))


def build(settings: Mapping[str, Any], role: str, given: Mapping[str, Any] | None = None) -> Any:
    """The object that the settings describe. `given` are values for arguments that settings cannot hold."""
    return construct(_TABLES[role], settings, role, given)


def construct(
    table: Mapping[str, Callable[..., Any]],
    settings: Mapping[str, Any],
    role: str,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """table[settings['name']](**the rest), nested settings built first."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise InputError(f"{role} needs a name, found {settings!r}: one of {', '.join(table)}")
    name = settings["name"]
    if name not in table:
        raise InputError(f"{role} {name!r} is not known: {suggestion(str(name), table)}")
    known = arguments(table[name])
    values = {**settings, **(given or {})}
    del values["name"]
    for key in values:
        if key not in known:
            raise InputError(f"{role} {name!r} has no setting {key!r}: {suggestion(key, known)}")
        _check_kind(f"{role} {name!r}", key, values[key], known[key].annotation)
    missing = [key for key, argument in known.items() if argument.default is argument.empty and key not in values]
    if missing:
        raise InputError(f"{role} {name!r} needs the setting {missing[0]!r}, found {dict(settings)}: add it")
    try:
        return table[name](**{key: _value(key, value) for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{role} {name!r} cannot be built from {dict(settings)}: {error}") from error


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What a simple annotation asks for: in words, an example, and whether a value is such a one.
_KINDS: dict[str, tuple[str, str, Callable[[Any], bool]]] = {
    "int": ("a whole number", "5", _whole),
    "float": ("a number", "0.1", lambda v: _whole(v) or isinstance(v, float)),
    "bool": ("true or false", "true", lambda v: isinstance(v, bool)),
    "str": ("a text", '"text"', lambda v: isinstance(v, str)),
    "Sequence[int]": (
        "a list of whole numbers",
        "[40, 40]",
        lambda v: isinstance(v, list | tuple) and all(map(_whole, v)),
    ),
    "None": ("nothing", "None", lambda v: v is None),
}


def _check_kind(what: str, key: str, value: Any, annotation: object) -> None:
    """Other annotations are left to the constructor, which checks its arguments itself."""
    kinds = [_KINDS[part] for part in str(annotation).split(" | ") if part in _KINDS]
    if len(kinds) == str(annotation).count(" | ") + 1 and not any(fits(value) for _, _, fits in kinds):
        words, example, _ = kinds[0]
        raise InputError(f"{what} has {key}={value!r}: {words} is needed, such as {example}")


def _value(key: str, value: Any) -> Any:
    if isinstance(value, Mapping) and _UNKNOWN in value:
        raise InputError(
            f"the saved learner's {key} is a {value[_UNKNOWN]}, which kshot cannot rebuild: "
            f"build it as before saving and pass it, load(path, {key}=…)"
        )
    if key in _TABLES and isinstance(value, Mapping):
        return build(value, key)
    plain_name = isinstance(value, str) and key != "hypergradient"  # whose names may hold a setting, 'truncated:5'
    if key in _TABLES and plain_name:
        return build({"name": value}, key)
    if key in _TABLES and isinstance(value, int | float | list):
        raise InputError(f"{key} needs a name, found {value!r}: one of {', '.join(_TABLES[key])}")
    return value


def describe(thing: nn.Module) -> Settings:
    """The settings that `build` rebuilds the thing from; a part that it cannot rebuild is named by its class."""
    tables = (LEARNERS, RULES, MODELS)
    name = next((n for table in tables for n, made in table.items() if made is type(thing)), None)
    if name is None:
        return {_UNKNOWN: type(thing).__qualname__}
    return {"name": name, **{key: _described(key, _attribute(thing, key)) for key in arguments(type(thing))}}


def describe_tasks(source: Any) -> Settings:
    """A source's class, its plain public attributes, and which classes it shows: enough to tell two sources apart."""
    own = getattr(source, "__dict__", {})
    plain = {k: v for k, v in own.items() if not k.startswith("_") and _is_plain(v)}
    which = hashlib.blake2b("".join(sorted(identities(source))).encode(), digest_size=6).hexdigest()
    return {"source": type(source).__name__, "classes": len(identities(source)), "which": which, **plain}


def flat(settings: Mapping[str, Any], above: str = "") -> Settings:
    """Nested settings under dotted names, so that each is named by itself."""
    found: Settings = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return found


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which settings differ, 'model.width'. One not known then, and off, came with a newer kshot: all is as it was."""
    then, today = flat(was), flat(now)
    new = {key for key, value in today.items() if key not in then and not value}
    return [key for key in sorted(then.keys() | today.keys()) if key not in new and then.get(key) != today.get(key)]


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _attribute(thing: nn.Module, key: str) -> Any:
    return getattr(thing, "criterion" if key == "loss" and isinstance(thing, MetaLearner) else key)


def _described(key: str, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, Hypergradient):
        name = next((n for n, made in HYPERGRADIENTS.items() if made is type(value)), None)
        return {_UNKNOWN: type(value).__qualname__} if name is None else {"name": name, **vars(value)}
    if key == "loss":
        name = next((n for n, loss in LOSSES.items() if loss is value), None)
        return name if name is not None else {_UNKNOWN: getattr(value, "__qualname__", type(value).__name__)}
    if callable(value):
        return {_UNKNOWN: getattr(value, "__qualname__", type(value).__name__)}
    return list(value) if isinstance(value, tuple) else value


def arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a class or a thin constructor; its `**choices` are those of its base class or of what it returns."""
    found: dict[str, inspect.Parameter] = {}
    chain: list[Any] = list(inspect.getmro(target)) if inspect.isclass(target) else [target]
    while chain:
        link = chain.pop(0)
        call = vars(link).get("__init__") if inspect.isclass(link) else link
        if call is None or call in (object.__init__, nn.Module.__init__):
            continue
        parameters = [p for p in inspect.signature(call).parameters.values() if p.name != "self"]
        if not inspect.isclass(target) and link is not target:  # of what it returns, the required ones are given
            parameters = [p for p in parameters if p.default is not p.empty or p.kind is p.VAR_KEYWORD]
        found = {**{p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        if not inspect.isclass(link):
            chain = list(inspect.getmro(typing.get_type_hints(link)["return"]))
    return found


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """'did you mean …?' for a misspelt name, else what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(wrong, known, 1)
    some = known if len(known) <= MOST else [*known[:3], "…"]
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(some)}"
