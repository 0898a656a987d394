"""Reading a section of NeMo's yaml so that nothing in it goes unnoticed."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from maya.errors import MayaError

T = TypeVar("T", bool, int, float, str)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 1e-5, which yaml 1.1 takes for a text


class Section:
    """A mapping of the yaml of which every key must be read, checked or knowingly passed over.

    `ignored` are the dotted names the user said to pass over. Defaults are those of NeMo's classes, which
    hold where a key is missing.
    """

    def __init__(self, path: Path, name: str, values: Any, ignored: Collection[str] = ()) -> None:
        self.path, self.name, self._ignored = path, name, ignored
        if not isinstance(values, dict):
            found = "is missing" if values is None else f"is {_short(values)}, not a group of settings"
            raise MayaError(f"{path}: {name or 'model_config.yaml'} {found}")
        self._values = {str(k): v for k, v in values.items()}
        self._seen: set[str] = set()

    def where(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def raw(self, key: str, default: Any = None) -> Any:
        self._seen.add(key)
        return self._values.get(key, default)

    def section(self, key: str) -> "Section":
        """A group inside this one; MayaError when it is missing."""
        return Section(self.path, self.where(key), self.raw(key), self._ignored)

    def take(self, key: str, default: T) -> T:
        """The value of `key`, of the type of `default`; a whole number may stand for a float."""
        value = self.raw(key, default)
        kind = type(default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # type: ignore[return-value]
        if kind is float and isinstance(value, str) and _NUMBER.fullmatch(value):
            return float(value)  # type: ignore[return-value]
        if type(value) is not kind:
            raise MayaError(f"{self.path}: {self.where(key)} is {_short(value)}, not a {kind.__name__}")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key that has no default."""
        if self._values.get(key) is None:
            raise MayaError(f"{self.path}: {self.where(key)} is missing from model_config.yaml")
        return self.take(key, kind())

    def fixed(self, key: str, *allowed: Any) -> None:
        """Refuse a value that makes another network than Maya's; the first one allowed is NeMo's default."""
        value = self.raw(key, allowed[0])
        if self.where(key) in self._ignored:
            return
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            supported = " or ".join(_short(a) for a in allowed)
            raise MayaError(
                f"{self.path}: {self.where(key)} is {_short(value)}, which Maya cannot build; "
                f"it has {supported}"
            )

    def harmless(self, *keys: str) -> None:
        """Keys that do not change what the network computes."""
        self._seen.update(keys)

    def close(self) -> None:
        """Refuse the first key that nobody asked for: it may change the network."""
        for key in self._values:
            if key not in self._seen and self.where(key) not in self._ignored:
                raise MayaError(
                    f"{self.path}: {self.where(key)} = {_short(self._values[key])} is not known to Maya "
                    f"and may change the network; if it does not, pass --ignore {self.where(key)}"
                )


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
