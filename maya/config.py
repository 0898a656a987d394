"""Typed configuration: dataclasses that check assignments, round-trip through JSON and accept overrides.

A configuration holds numbers, strings, bools, None, lists, tuples, dictionaries and other configurations. So
every experiment can be stored in JSON and in a checkpoint. The type of a number declares its range: see
maya.ranges.
"""

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from maya.errors import MayaError
from maya.ranges import Constraint

T = TypeVar("T")


class ConfigTypeError(MayaError, TypeError):
    """The value of a field has the wrong type."""


class Kinds:
    """The base class of a family of configurations, such as `EncoderConfig`. The field `kind` names each.

    A configuration is registered when its class is defined: `kind` is a Literal of one word with that word as
    the default. A field whose type is the family then accepts it, in Python and from JSON. So another encoder
    or head needs no change in maya; its file only has to be imported.
    """

    __slots__ = ()

    @property
    def kind(self) -> str:
        """The name of this configuration in its family."""
        raise NotImplementedError

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """The registered configurations of this family, by kind."""
        return _KINDS.setdefault(cls, {})

    def build(self, *args: Any) -> Any:
        """A new module of this configuration on the current default device, made by the builder that
        `register_builder` stored. A configuration may define `build` itself instead."""
        if type(self) not in _BUILDERS:
            raise MayaError(f"no class is registered for {type(self).__name__}; see maya.config.Kinds")
        return _BUILDERS[type(self)](self, *args)


_KINDS: dict[type, dict[str, type]] = {}  # by family
_BUILDERS: dict[type, Callable[..., Any]] = {}  # by configuration


def register_builder(cls: type, builder: Callable[..., Any]) -> None:
    """Make `builder(cfg, ...)` the function or class that builds the module of a configuration class."""
    _BUILDERS[cls] = builder


def _register(made: type) -> None:
    """Register a configuration of a family. Raises MayaError if another class has the same kind."""
    family = made.__mro__[made.__mro__.index(Kinds) - 1]
    kind = made.__dataclass_fields__.get("kind")  # type: ignore[attr-defined]
    if kind is None or not isinstance(kind.default, str):  # the family itself, or refused where it is used
        return
    kinds = _KINDS.setdefault(family, {})
    other = kinds.get(kind.default)
    if other is not None and other.__qualname__ != made.__qualname__:
        raise MayaError(
            f"{made.__qualname__} and {other.__qualname__} are both of kind {kind.default!r}; rename one"
        )
    kinds[kind.default] = made


@typing.dataclass_transform(kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a keyword-only dataclass with slots that checks the type and range of assignments.

    An unknown field raises AttributeError (TypeError in the constructor), whose message suggests the nearest
    name. A value of the wrong type raises ConfigTypeError, one outside the declared range MayaError. A float
    accepts an int, and a tuple a list.
    """
    made = dataclasses.dataclass(kw_only=True, slots=True)(cls)
    hints = field_types(made)
    names = {f.name for f in dataclasses.fields(made)}  # type: ignore[arg-type]
    # A base class that is a configuration too would check the fields with its own types.
    plain_set = getattr(made.__setattr__, "__wrapped__", made.__setattr__)
    plain_init = made.__init__

    @functools.wraps(plain_set)
    def checked_set(self: Any, name: str, value: Any) -> None:
        if name in names:
            value = _coerce(value, hints[name], f"{cls.__name__}.{name}")
        elif not hasattr(type(self), name):
            raise AttributeError(f"{cls.__name__} has no field {name!r}{nearest(name, names)}")
        plain_set(self, name, value)

    @functools.wraps(plain_init)
    def checked_init(self: Any, *args: Any, **values: Any) -> None:
        if unknown := [name for name in values if name not in names]:
            raise TypeError(f"{cls.__name__} has no field {unknown[0]!r}{nearest(unknown[0], names)}")
        plain_init(self, *args, **values)

    made.__setattr__ = checked_set  # type: ignore[method-assign]
    made.__init__ = checked_init  # type: ignore[method-assign]
    if issubclass(made, Kinds):
        _register(made)
    return made


def field_types(cls: type) -> dict[str, Any]:
    """The declared type of each field, with its range."""
    return typing.get_type_hints(cls, include_extras=True)


def required_fields(cls: type) -> list[str]:
    """The names of the fields that have no default."""
    missing, fields = dataclasses.MISSING, dataclasses.fields(cls)
    return [f.name for f in fields if f.default is missing and f.default_factory is missing]


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error about an unknown `word`: "; did you mean ...?", or "" if no choice is similar."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def to_dict(cfg: Any) -> dict[str, Any]:
    """A configuration as plain dicts and lists, ready for `json.dump`."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The configuration of type `cls` that `to_dict` wrote. Unknown names raise MayaError.

    If a field may hold several configurations, `kind` selects one (see `Kinds`); without it, the first.
    """
    hints = field_types(cls)
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise MayaError(
            f"{cls.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(names))}"
        )
    return cls(**{k: _from_json(v, hints[k]) for k, v in values.items()})


def override(cfg: Any, assignment: str) -> None:
    """Apply one typed override, `a.b.c=value`, in place.

    The declared type of the field decides how the text is parsed: `true` or `false` for a bool, `none` for an
    optional field, comma-separated values for a tuple or list. `model.heads.ctc=none` removes an entry of a
    dictionary. Unknown names, wrong types and values out of range raise MayaError.
    """
    path, eq, text = assignment.partition("=")
    path, text = path.strip(), text.strip()
    if not eq:
        raise MayaError(f"{assignment!r} is not of the form NAME=VALUE, such as train.lr=3e-4")
    *parents, leaf = path.split(".")
    node = cfg
    for name in parents:
        node = _child(cfg, node, name, path)
        if not _is_group(node):
            raise MayaError(f"unknown option {path!r}: {name!r} is a value and has no fields")
    current = _child(cfg, node, leaf, path)
    if isinstance(node, dict) and text.lower() == "none":
        del node[leaf]
        return
    if _is_group(current):
        raise MayaError(f"{path} is a group of options; set one of them, such as {path}.{_names(current)[0]}")
    hint = field_types(type(node))[leaf]
    try:
        value = _parse(text, hint)
    except (TypeError, ValueError):
        raise MayaError(f"{path} expects {_describe(hint)}{_example(current)}, not {text!r}") from None
    setattr(node, leaf, _coerce(value, hint, path))


def leaves(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields that an override can set, as (dotted name, value)."""
    for name in _names(cfg):
        value = _value(cfg, name)
        if _is_group(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_group(value: Any) -> bool:
    """Whether a value has fields: a configuration, or a dictionary of configurations."""
    named = isinstance(value, dict) and bool(value) and all(map(dataclasses.is_dataclass, value.values()))
    return named or dataclasses.is_dataclass(value)


def _names(cfg: Any) -> list[str]:
    return list(cfg) if isinstance(cfg, dict) else [f.name for f in dataclasses.fields(cfg)]


def _value(cfg: Any, name: str) -> Any:
    return cfg[name] if isinstance(cfg, dict) else getattr(cfg, name)


def _child(cfg: Any, node: Any, name: str, path: str) -> Any:
    if name in _names(node):
        return _value(node, name)
    paths = [option for option, _ in leaves(cfg)]
    tail = path.rpartition(".")[2]
    same_tail = [option for option in paths if option.rpartition(".")[2] == tail]
    hint = f"; did you mean {same_tail[0]!r}?" if len(same_tail) == 1 else nearest(path, paths)
    raise MayaError(f"unknown option {path!r}" + (hint or f"; {_group(node)} has {', '.join(_names(node))}"))


def _group(node: Any) -> str:
    return type(node).__name__


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; for another type, the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _constraints(hint: Any) -> list[Constraint]:
    return [c for c in getattr(hint, "__metadata__", ()) if isinstance(c, Constraint)]


def _bare(hint: Any) -> Any:
    """A type without its constraints."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` converted to the declared type. Raises ConfigTypeError, or MayaError if it is out of range."""
    for option in _options(hint):
        matches, converted = _converted(value, _bare(option), where)
        if not matches:
            continue
        for constraint in _constraints(option):
            if not constraint.allows(converted):
                raise MayaError(f"{where} must be {constraint}, not {_shown(value)}")
        return converted
    raise ConfigTypeError(f"{where} expects {_describe(hint)}, not {value!r}")


def _converted(value: Any, kind: Any, where: str) -> tuple[bool, Any]:
    """Whether `value` has this type, and the converted value."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in args, value
    if origin is tuple and isinstance(value, (tuple, list)):
        if len(args) == 2 and args[1] is Ellipsis:
            return True, tuple(_coerce(v, args[0], where) for v in value)
        if len(value) == len(args):
            return True, tuple(_coerce(v, a, where) for v, a in zip(value, args, strict=True))
    if origin is list and isinstance(value, (tuple, list)):
        return True, [_coerce(v, args[0], where) for v in value]
    if origin is dict and isinstance(value, dict):
        return True, {_coerce(k, args[0], where): _coerce(v, args[1], where) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value) if abs(value) < 2**1023 else math.inf * (1 if value > 0 else -1)
    if isinstance(kind, type):
        if isinstance(value, Kinds) and not _has_kind(value):
            name = type(value).__name__
            raise MayaError(
                f"{where}: {name} cannot be saved without a name; give the class the decorator @config and "
                f"a field such as kind: Literal[{name.lower()!r}] = {name.lower()!r}"
            )
        return isinstance(value, kind) and not (kind is int and isinstance(value, bool)), value
    return False, value


def _has_kind(value: Kinds) -> bool:
    """Whether a configuration has the field `kind` with a word as the default."""
    field = getattr(type(value), "__dataclass_fields__", {}).get("kind")
    return field is not None and isinstance(field.default, str)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return repr(value)
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _from_json(value: Any, hint: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for option in _options(hint):
        if typing.get_origin(option) is dict:
            return {k: _from_json(v, typing.get_args(option)[1]) for k, v in value.items()}
    families = [o for o in _options(hint) if isinstance(o, type) and issubclass(o, Kinds)]
    groups: list[Any] = [cls for family in families for cls in family.kinds().values()]
    groups = groups or [o for o in _options(hint) if dataclasses.is_dataclass(o)]
    kinds = {str(f.default): cls for cls in groups for f in dataclasses.fields(cls) if f.name == "kind"}
    if not groups:
        return value
    kind = value.get("kind")
    if kinds and kind is not None and kind not in kinds:
        raise MayaError(
            f"unknown kind {kind!r} of configuration; expected one of {', '.join(kinds)}. If it is a kind of "
            "your own, name the file that defines it with --experiment FILE"
        )
    return from_dict(kinds.get(str(kind), groups[0]), value)


def _parse(text: str, hint: Any) -> Any:
    options = _options(hint)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for option in map(_bare, options):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin in (tuple, list):
            parts = _split(text)
            if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
                if len(parts) != len(args):
                    raise ValueError(text)
                return tuple(_parse(p, a) for p, a in zip(parts, args, strict=True))
            return origin(_parse(p, args[0]) for p in parts)
        if origin is typing.Literal:
            for choice in args:
                if text == str(choice):
                    return choice
            continue
        if option is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            continue
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        if option is str:
            return text
    raise ValueError(text)


def _split(text: str) -> list[str]:
    """The items of "a,b", "(a, b)" or "[a, b]"; an item may itself be a list in brackets."""
    items = _at_commas(text)
    if len(items) == 1 and items[0][0] in "([":  # one pair of brackets around all
        items = _at_commas(items[0][1:-1])
    return items


def _at_commas(text: str) -> list[str]:
    """`text` split at the commas outside brackets."""
    depth, items = 0, [""]
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and not depth:
            items.append("")
        else:
            items[-1] += c
    if depth:
        raise ValueError(text)
    return [item.strip() for item in items if item.strip()]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_COUNTS = {2: "two", 3: "three", 4: "four"}


def _describe(hint: Any) -> str:
    """A declared type and its range in words."""
    return " or ".join(_described(option) for option in _options(hint))


def _described(option: Any) -> str:
    kind, rules = _bare(option), ", ".join(map(str, _constraints(option)))
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        text = "one of " + ", ".join(map(str, args))
    elif origin in (tuple, list):
        items = [a for a in args if a is not Ellipsis]
        each = ", ".join(map(str, _constraints(items[0])))
        many = _MANY.get(_bare(items[0]), "lists of " + _MANY.get(_item(items[0]), "values"))
        count = f"{_COUNTS.get(len(items), len(items))} " if len(args) > 1 and len(items) == len(args) else ""
        if len({_bare(a) for a in items}) > 1:
            many = "values"
        text = f"{count or 'a list of '}{many}" + (f" (each {each})" if each else "")
    else:
        text = _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
    return f"{text} ({rules})" if rules and rules != text else text


def _item(hint: Any) -> Any:
    """The type of a list's first item."""
    args = typing.get_args(_bare(hint))
    return _bare(args[0]) if args else None


def _example(current: Any) -> str:
    """The current value of a list, as a user would type it."""
    if not isinstance(current, (tuple, list)) or not current:
        return ""
    items = [f"({','.join(map(str, v))})" if isinstance(v, (tuple, list)) else str(v) for v in current]
    is_single_list = len(items) == 1 and items[0].startswith("(")
    return f", for example ({items[0]})" if is_single_list else f", for example {','.join(items)}"
