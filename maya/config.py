"""Typed configuration: dataclasses that check what is assigned, travel through JSON and take overrides.

A configuration holds numbers, strings, bools, None, lists, tuples, and other configurations, so that
every experiment round-trips through JSON and is stored whole in a checkpoint.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from maya.errors import MayaError

T = TypeVar("T")


@typing.dataclass_transform(kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a keyword-only, slotted dataclass whose assignments are type-checked.

    A misspelt field raises AttributeError (slots), a value of the wrong type raises TypeError; an int is
    accepted where a float is declared, and a list where a tuple is.
    """
    made = dataclasses.dataclass(kw_only=True, slots=True)(cls)
    hints = typing.get_type_hints(made)
    names = {f.name for f in dataclasses.fields(made)}  # type: ignore[arg-type]
    plain_set = made.__setattr__

    def checked_set(self: Any, name: str, value: Any) -> None:
        if name in names:
            value = _coerce(value, hints[name], f"{cls.__name__}.{name}")
        plain_set(self, name, value)

    made.__setattr__ = checked_set  # type: ignore[method-assign]
    return made


def to_dict(cfg: Any) -> dict[str, Any]:
    """A configuration as plain dicts and lists, ready for `json.dump`."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The configuration of type `cls` that `to_dict` wrote; unknown names raise MayaError.

    Where a field may hold one of several configurations, each of them has a field `kind`, a Literal of one
    word, which tells them apart; one without `kind` is of the first of them.
    """
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise MayaError(
            f"{cls.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(names))}"
        )
    return cls(**{k: _from_json(v, hints[k]) for k, v in values.items()})


def override(cfg: Any, assignment: str) -> None:
    """Apply one typed override, `a.b.c=value`, in place.

    The text is read according to the declared type of the field: `true`/`false` for bool, `none` for an
    optional, comma-separated values for a tuple or list. Unknown names and wrong types raise MayaError.
    """
    path, eq, text = assignment.partition("=")
    if not eq:
        raise MayaError(f"override {assignment!r} is not of the form name=value")
    *parents, leaf = path.strip().split(".")
    node = cfg
    for name in parents:
        node = _child(node, name, path)
        if not dataclasses.is_dataclass(node):
            raise MayaError(f"override {path!r}: {name!r} is a value, it has no fields of its own")
    _child(node, leaf, path)
    hint = typing.get_type_hints(type(node))[leaf]
    if dataclasses.is_dataclass(group := getattr(node, leaf)):
        raise MayaError(
            f"override {path!r} names a whole group; set one of its fields, such as {path}.{_names(group)[0]}"
        )
    try:
        setattr(node, leaf, _parse(text.strip(), hint))
    except (TypeError, ValueError):
        raise MayaError(f"override {path!r} takes {_describe(hint)}, not {text.strip()!r}") from None


def leaves(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that an override can set, as (dotted name, value)."""
    for name in _names(cfg):
        value = getattr(cfg, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _names(cfg: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cfg)]


def _child(node: Any, name: str, path: str) -> Any:
    if name not in _names(node):
        raise MayaError(f"unknown override {path!r}: {type(node).__name__} has {', '.join(_names(node))}")
    return getattr(node, name)


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    for option in _options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if option is type(None) and value is None:
            return None
        if origin is typing.Literal and value in args:
            return value
        if origin is tuple and isinstance(value, (tuple, list)):
            item = args[0]
            if len(args) == 2 and args[1] is Ellipsis:
                return tuple(_coerce(v, item, where) for v in value)
            if len(value) == len(args):
                return tuple(_coerce(v, a, where) for v, a in zip(value, args, strict=True))
        if origin is list and isinstance(value, (tuple, list)):
            return [_coerce(v, args[0], where) for v in value]
        if origin is dict and isinstance(value, dict):
            return {_coerce(k, args[0], where): _coerce(v, args[1], where) for k, v in value.items()}
        if isinstance(option, type):
            if option is float and isinstance(value, int) and not isinstance(value, bool):
                return float(value)
            if isinstance(value, option) and not (option is int and isinstance(value, bool)):
                return value
    raise TypeError(f"{where} takes {_describe(hint)}, not {value!r}")


def _from_json(value: Any, hint: Any) -> Any:
    groups = [o for o in _options(hint) if dataclasses.is_dataclass(o)]
    if not groups or not isinstance(value, dict):
        return value
    kinds = {k: o for o in groups for k in typing.get_args(typing.get_type_hints(o).get("kind"))}
    kind = value.get("kind")
    if kinds and kind is not None and kind not in kinds:
        raise MayaError(f"there is no kind {kind!r} of configuration here; known are {', '.join(kinds)}")
    return from_dict(typing.cast(type, kinds.get(kind, groups[0])), value)


def _parse(text: str, hint: Any) -> Any:
    options = _options(hint)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for option in options:
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
    """The items of "a,b", "(a, b)" or "[a, b]", which may be lists in brackets themselves."""
    items = _at_commas(text)
    if len(items) == 1 and items[0][0] in "([":  # one pair of brackets around all
        items = _at_commas(items[0][1:-1])
    return items


def _at_commas(text: str) -> list[str]:
    """`text` cut at the commas outside of brackets."""
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


def _describe(hint: Any) -> str:
    words = []
    for option in _options(hint):
        origin = typing.get_origin(option)
        if origin is typing.Literal:
            words.append("one of " + ", ".join(map(str, typing.get_args(option))))
        elif origin in (tuple, list):
            words.append("a list of " + _describe(typing.get_args(option)[0]))
        else:
            words.append("none" if option is type(None) else getattr(option, "__name__", str(option)))
    return " or ".join(words)
