"""`split` of single utterances, for tests that describe each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maya.data.corpus.manifest import PARTS
from maya.data.prepare.columns import keys
from maya.data.prepare.split import SplitColumns, SplitConfig
from maya.data.prepare.split import split as split_columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An utterance to be split. part: given by the corpus; group: the same for those that share audio."""

    id: str
    language: str
    speaker: str
    text: str
    seconds: float
    part: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierSplit:
    """A split to keep: parts by id, and methods by language."""

    parts: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)


def split(
    items: Sequence[Item], cfg: SplitConfig, earlier: EarlierSplit | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """The part of each item by id, and the report by language."""
    earlier = earlier or EarlierSplit()
    by_language: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.id):
        by_language.setdefault(item.language, []).append(item)
    ordered = [item for some in by_language.values() for item in some]
    groups = {name: number for number, name in enumerate(dict.fromkeys(i.group for i in ordered))}
    columns = SplitColumns(
        languages=list(by_language),
        ends=np.cumsum([len(some) for some in by_language.values()]).tolist(),
        seconds=np.array([i.seconds for i in ordered], np.float64),
        speakers=keys(i.speaker for i in ordered),
        texts=keys(i.text for i in ordered),
        named=_numbers(i.part for i in ordered),
        earlier=_numbers(earlier.parts.get(i.id) for i in ordered),
        groups=np.array([-1 if i.group is None else groups[i.group] for i in ordered], np.int64),
    )
    parts, report = split_columns(columns, cfg, earlier.methods)
    return {item.id: PARTS[part] for item, part in zip(ordered, parts, strict=True)}, report


def _numbers(parts: Any) -> Any:
    return np.array([-1 if part is None else PARTS.index(part) for part in parts], np.int8)
