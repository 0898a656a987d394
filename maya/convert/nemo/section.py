"""Read a section of NeMo's yaml without overlooking a key."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from maya.errors import MayaError

T = TypeVar("T", bool, int, float, str)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 1e-5, which yaml 1.1 takes for a text


class Section:
    """A mapping of the yaml. Every key of it must be read, checked or declared harmless.

    `ignored` are the dotted names that the user passes over. A missing key has the default of NeMo's class.
    """

    def __init__(self, path: Path, name: str, values: Any, ignored: Collection[str] = ()) -> None:
        self.path, self.name, self._ignored = path, name, ignored
        if not isinstance(values, dict):
            problem = "is missing" if values is None else f"is {_short(values)}, not a group of settings"
            raise MayaError(f"{path}: {name or 'model_config.yaml'} {problem}")
        # Yaml 1.1 takes the code of Norwegian, `no`, for a truth value.
        self._values = {"no" if k is False else str(k): v for k, v in values.items()}
        self._seen: set[str] = set()

    def where(self, key: str) -> str:
        """The dotted name of a key."""
        return f"{self.name}.{key}" if self.name else key

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of the yaml."""
        return iter(self._values)

    def raw(self, key: str, default: Any = None) -> Any:
        """The value of a key, of any type."""
        self._seen.add(key)
        return self._values.get(key, default)

    def section(self, key: str) -> "Section":
        """A group inside this one. Raises MayaError if it is missing."""
        return Section(self.path, self.where(key), self.raw(key), self._ignored)

    def take(self, key: str, default: T) -> T:
        """The value of `key`, of the type of `default`. A whole number is accepted for a float, which must be
        finite."""
        value = self.raw(key, default)
        kind = type(default)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if kind is float and (is_number or isinstance(value, str) and _NUMBER.fullmatch(value)):
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise MayaError(f"{self.path}: {self.where(key)} is {_short(value)}, not a {kind.__name__}")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key that has no default."""
        if self._values.get(key) is None:
            raise MayaError(f"{self.path}: {self.where(key)} is missing from model_config.yaml")
        return self.take(key, kind())

    def fixed(self, key: str, *allowed: Any) -> None:
        """Refuse a value that Maya's network does not support. The first allowed one is NeMo's default."""
        value = self.raw(key, allowed[0])
        if self.where(key) in self._ignored:
            return
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            supported = " or ".join(_short(a) for a in allowed)
            raise MayaError(
                f"{self.path}: {self.where(key)} is {_short(value)}, which Maya does not support; "
                f"it supports {supported}"
            )

    def harmless(self, *keys: str) -> None:
        """Accept keys that do not change the network."""
        self._seen.update(keys)

    def unknown_values(self) -> list[str]:
        """Keys that were not read and hold a single value, each with it; they count as read from then on."""
        unread = [
            key for key in self._values if key not in self._seen and self.where(key) not in self._ignored
        ]
        unknown = [key for key in unread if not isinstance(self._values[key], dict | list)]
        self._seen.update(unknown)
        return [f"{self.where(key)} = {_short(self._values[key])}" for key in unknown]

    def close(self, others: Mapping[str, str] | None = None) -> None:
        """Refuse the first key that was not read: it may change the network. others: what the keys of other
        networks are."""
        for key in self._values:
            if key in self._seen or self.where(key) in self._ignored:
                continue
            if others and key in others:
                raise MayaError(
                    f"{self.path}: {self.where(key)} is {others[key]}, which Maya does not read here"
                )
            raise MayaError(
                f"{self.path}: {self.where(key)} = {_short(self._values[key])} is unknown to Maya "
                f"and may change the network; if it does not, add --ignore {self.where(key)}"
            )


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
