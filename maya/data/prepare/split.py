"""Train, dev and test parts: no speaker in two of them, and as few texts as possible.

Each language is split for itself, by the first of these that is possible:

- "manifest": the corpus says for dev and test which utterances they are. A part it does not name is drawn
  from the rest by one of the ways below.
- "speaker": whole speakers are drawn. Of several seeded draws the one that meets the wanted sizes best
  and repeats fewest texts is kept. Texts that many speakers read stay in several parts, and the report says
  what share of them does.
- "text": with too few speakers for that, utterances are drawn so that no text is in two parts. Speakers are.
- "train": with fewer than three texts everything is training data.

Utterances that cover the same span of a recording, as overlapping speech is written down, stay in one part:
their speakers, and their texts, are drawn together.

A speaker of several languages is in the same part in all of them; one who is in several parts of a
language split by text counts as a training speaker elsewhere.

A corpus that grew keeps its earlier split. Every utterance stays in its part. A new utterance of a held-out
speaker (in a language split by text: of a held-out text) joins that part. Other new speakers or texts are
drawn for dev and test while these are short of their shares, and are training data otherwise.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from maya.config import config
from maya.data.corpus.manifest import PARTS
from maya.errors import MayaError
from maya.ranges import BelowOne, PosFloat, Seed, Share

_HELD_OUT = ("test", "dev")  # drawn in this order
_DRAWS = 50


@config
class SplitConfig:
    """dev, test: shares of a language's duration, but not more than max_hours of each language.
    min_train: a draw that leaves training less than this share is not accepted.
    fresh: draw all parts anew, where the split of an earlier preparation would be kept. Models trained on the
    earlier split have then seen some of the new dev and test utterances."""

    dev: BelowOne = 0.1
    test: BelowOne = 0.1
    max_hours: PosFloat = 2.0
    min_train: Share = 0.5
    seed: Seed = 0
    fresh: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An utterance to be split. part: given by the corpus, None if it gives none; group: the same for
    utterances that have audio in common, None otherwise."""

    id: str
    language: str
    speaker: str
    text: str
    seconds: float
    part: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierSplit:
    """A split to keep. parts: by id of the utterance; methods: by language, as in the report of `split`."""

    parts: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)


def split(
    items: Sequence[Item], cfg: SplitConfig, earlier: EarlierSplit | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """The part of each utterance by id, and a report (see `_describe`) by language.

    earlier: a split to keep; only a dev or test part that the corpus itself names goes before it. The same
    items, config and earlier split give the same parts, in whatever order the items come. Raises MayaError
    for shares that do not leave room for training data.
    """
    earlier = earlier or EarlierSplit()
    if min(cfg.dev, cfg.test) < 0 or cfg.dev + cfg.test > 1 - cfg.min_train:
        raise MayaError(
            f"split shares dev={cfg.dev:g} and test={cfg.test:g} leave less than min_train={cfg.min_train:g} "
            "of the data for training"
        )
    by_language: dict[str, list[Item]] = defaultdict(list)
    original = {item.id: item for item in items}
    for item in sorted(_joined_by_audio(items), key=lambda item: item.id):
        by_language[item.language].append(item)
    parts: dict[str, str] = {}
    settled = {
        language: _settled(items_of_language, earlier.parts)
        for language, items_of_language in by_language.items()
    }
    home = _homes(by_language, settled)  # the part of each speaker met so far
    report: dict[str, Any] = {}
    # Languages without a choice come first: their speakers are then known when others are drawn.
    for language in sorted(by_language, key=lambda code: (_freedom(by_language[code]), code)):
        items_of_language = by_language[language]
        rng = np.random.default_rng([cfg.seed, *language.encode()])
        if settled[language]:
            method = earlier.methods.get(language, "")
            chosen, method = _extend_language(items_of_language, settled[language], method, cfg, home, rng)
        else:
            chosen, method = _split_language(items_of_language, cfg, home, rng)
        parts |= chosen
        for speaker, parts_of_speaker in _parts_of_speakers(items_of_language, chosen).items():
            home.setdefault(speaker, next(iter(parts_of_speaker)) if len(parts_of_speaker) == 1 else "train")
        report[language] = {
            "method": method,
            **_describe([original[item.id] for item in items_of_language], chosen),
        }
    return parts, {language: report[language] for language in sorted(report)}


def _joined_by_audio(items: Iterable[Item]) -> list[Item]:
    """The items, with one common name for the speakers of a group, and one for its texts."""
    items = sorted(items, key=lambda item: item.id)
    if all(item.group is None for item in items):
        return items
    for attribute in ("speaker", "text"):
        values = [getattr(item, attribute) for item in items]
        name = {value: value for value in values}

        def root(value: str, name: dict[str, str] = name) -> str:
            while name[value] != value:
                name[value] = value = name[name[value]]
            return value

        first: dict[str, str] = {}  # value of each group
        for item, value in zip(items, values, strict=True):
            if item.group is not None:
                name[root(value)] = root(first.setdefault(item.group, value))
        joined = [{attribute: root(value)} for value in values]
        items = [replace(item, **changes) for item, changes in zip(items, joined, strict=True)]  # type: ignore[arg-type]
    return items


def _freedom(items: Iterable[Item]) -> int:
    """0: the corpus gives the parts; 1: too few speakers to divide; 2: free."""
    items = list(items)
    if any(item.part for item in items):
        return 0
    return 1 if len({item.speaker for item in items}) < 3 else 2


def _settled(items: Iterable[Item], earlier: Mapping[str, str]) -> dict[str, str]:
    """The parts, by id, that utterances of an earlier split have now."""
    items = list(items)
    named = {item.part for item in items} & set(_HELD_OUT)
    parts: dict[str, str] = {}
    for item in items:
        if item.id in earlier:
            part = earlier[item.id]
            contradicted = item.part in _HELD_OUT or (item.part == "train" and part in named)
            parts[item.id] = item.part if item.part is not None and contradicted else part
    return parts


def _homes(by_language: Mapping[str, list[Item]], settled: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """The part of each speaker of an earlier split; train for one who is in several."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for language, items in by_language.items():
        for item in items:
            if item.id in settled[language]:
                parts_of[item.speaker].add(settled[language][item.id])
    return {speaker: next(iter(p)) if len(p) == 1 else "train" for speaker, p in parts_of.items()}


def _extend_language(
    items: list[Item],
    settled: dict[str, str],
    method: str,
    cfg: SplitConfig,
    home: dict[str, str],
    rng: np.random.Generator,
) -> tuple[dict[str, str], str]:
    """Parts of the utterances of a language of which some are `settled`, by id, and the method."""
    named = {item.part for item in items} & set(_HELD_OUT)
    settled = settled | {item.id: item.part for item in items if item.part in _HELD_OUT}
    fresh = [item for item in items if item.id not in settled]
    total = sum(item.seconds for item in items)
    target = {
        part: min(getattr(cfg, part) * total, cfg.max_hours * 3600)
        for part in _HELD_OUT
        if part not in named and getattr(cfg, part) > 0
    }
    prefix, way = ("manifest+" if named else ""), method.rpartition("+")[2]
    drawn: dict[str, str] = {}
    if target and fresh:
        if way != "text":
            drawn = _extend_speakers(items, settled, target, cfg.min_train * total, home, rng)
        if way not in ("speaker", "text"):  # so far everything was training data
            way = "speaker" if drawn else way
        if way != "speaker":
            drawn = _extend_texts(items, settled, target, cfg.min_train * total, home, rng)
            way = "text" if way == "text" or set(drawn.values()) - {"train"} else way
    parts = {item.id: "train" for item in items} | drawn | settled
    if way not in ("speaker", "text"):
        return parts, "manifest" if named else "train"
    return parts, prefix + way


def _extend_speakers(
    items: list[Item],
    settled: dict[str, str],
    target: dict[str, float],
    min_train: float,
    home: dict[str, str],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Held-out parts of the new utterances of held-out speakers, and of the new speakers drawn for a part
    that is short of its target."""
    pool = [item for item in items if item.part not in _HELD_OUT]
    taken = {item.speaker: "train" for item in items if item.part in _HELD_OUT} | home
    for speaker, parts in _parts_of_speakers((i for i in pool if i.id in settled), settled).items():
        taken[speaker] = next(iter(parts)) if len(parts) == 1 else "train"
    drawn = _draw_speakers(pool, target, min_train, taken, rng)
    if drawn is None:
        places = {item.id: taken.get(item.speaker, "train") for item in pool}
        drawn = {name: part for name, part in places.items() if part in target}
    return {name: part for name, part in drawn.items() if name not in settled}


def _extend_texts(
    items: list[Item],
    settled: dict[str, str],
    target: dict[str, float],
    min_train: float,
    home: dict[str, str],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Parts of the new utterances such that no text comes to be in two parts. A new speaker stays in one part
    where the texts allow it."""
    part_of_text: dict[str, str] = {}
    seconds = dict.fromkeys((*_HELD_OUT, "train"), 0.0)
    for item in items:
        if item.id in settled:
            part = settled[item.id]
            seconds[part] += item.seconds
            part_of_text[item.text] = "train" if part == "train" else part_of_text.get(item.text, part)
    speakers = {item.speaker for item in items if item.id in settled}
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.id not in settled:
            key = ("text", item.text) if item.speaker in speakers else ("speaker", item.speaker)
            groups[key].append(item)
    spare = sum(item.seconds for item in items) - min_train  # of held-out data
    order = [*groups.values()]
    parts: dict[str, str] = {}
    for number in rng.permutation(len(order)).tolist():
        group = order[number]
        length = sum(item.seconds for item in group)
        met = {part_of_text[item.text] for item in group if item.text in part_of_text}
        fits = [
            part
            for part, target_seconds in target.items()
            if seconds[part] + length <= 1.25 * target_seconds
            and seconds["dev"] + seconds["test"] + length <= spare
        ]
        short = [part for part in fits if seconds[part] < target[part]]
        given = "train" if len(met) > 1 else next(iter(met), None)
        if not met and group[0].speaker not in speakers:
            given = home.get(group[0].speaker)  # from another language
        part = next(iter(short), "train") if given is None else given if given in fits else "train"
        for item in group:
            parts[item.id] = part_of_text.setdefault(item.text, part)
            seconds[parts[item.id]] += item.seconds
    return parts


def _split_language(
    items: list[Item], cfg: SplitConfig, home: dict[str, str], rng: np.random.Generator
) -> tuple[dict[str, str], str]:
    named = {item.part for item in items} & set(_HELD_OUT)
    fixed = {item.id: item.part for item in items if item.part in _HELD_OUT}
    pool = [item for item in items if item.id not in fixed]
    to_draw = [part for part in _HELD_OUT if part not in named and getattr(cfg, part) > 0]
    chosen = {item.id: item.part or "train" for item in items}
    if not to_draw or not pool:
        return chosen, "manifest" if named else "train"
    # A speaker whom the corpus puts into one part is not drawn for another.
    taken = {item.speaker: "train" for item in items if item.id in fixed} | home
    total = sum(item.seconds for item in items)
    target = {part: min(getattr(cfg, part) * total, cfg.max_hours * 3600) for part in to_draw}
    by_speaker = _draw_speakers(pool, target, cfg.min_train * total, taken, rng)
    drawn = by_speaker if by_speaker is not None else _draw_texts(pool, target, rng)
    method = "speaker" if by_speaker is not None else "text" if drawn else "train"
    return chosen | drawn, f"manifest+{method}" if named else method


def _draw_speakers(
    pool: list[Item],
    target: dict[str, float],
    min_train: float,
    taken: dict[str, str],
    rng: np.random.Generator,
) -> dict[str, str] | None:
    """Parts of the utterances of the speakers drawn; None if no draw fills each part and leaves min_train."""
    by_speaker: dict[str, list[Item]] = defaultdict(list)
    for item in pool:
        by_speaker[item.speaker].append(item)
    seconds = {speaker: sum(item.seconds for item in group) for speaker, group in by_speaker.items()}
    free = [speaker for speaker in by_speaker if speaker not in taken]
    placed = {s: p for s, p in taken.items() if s in by_speaker and p in target}
    best: tuple[float, dict[str, str]] | None = None
    for _ in range(_DRAWS):
        part_of = placed | _fill(free, seconds, target, placed, rng)
        held = {part: sum(seconds[s] for s, p in part_of.items() if p == part) for part in target}
        if min(held.values()) == 0 or sum(seconds.values()) - sum(held.values()) < min_train:
            continue
        drawn = {item.id: p for s, p in part_of.items() for item in by_speaker[s]}
        miss = sum(abs(held[part] - target[part]) / target[part] for part in target)
        cost = miss + _repeated_share(pool, drawn)
        if best is None or cost < best[0]:
            best = cost, drawn
    return best[1] if best else None


def _fill(
    free: list[str],
    seconds: dict[str, float],
    target: dict[str, float],
    placed: dict[str, str],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Draw speakers for each part until it has about its target; at least one, the shortest if none fits."""
    order = [free[i] for i in rng.permutation(len(free))]
    drawn: dict[str, str] = {}
    for part, target_seconds in target.items():
        have = sum(seconds[s] for s, p in placed.items() if p == part)
        remaining = [s for s in order if s not in drawn]
        for speaker in remaining:
            if have < target_seconds and have + seconds[speaker] <= 1.25 * target_seconds:
                drawn[speaker] = part
                have += seconds[speaker]
        if have == 0 and remaining:
            drawn[min(remaining, key=lambda s: seconds[s])] = part
    return drawn


def _draw_texts(pool: list[Item], target: dict[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Parts of the utterances of the texts drawn; nothing if there are too few texts for all parts."""
    by_text: dict[str, list[Item]] = defaultdict(list)
    for item in pool:
        by_text[item.text].append(item)
    if len(by_text) <= len(target):
        return {}
    texts = list(by_text)
    order = [texts[i] for i in rng.permutation(len(texts))]
    drawn: dict[str, str] = {}
    for place, (part, target_seconds) in enumerate(target.items()):
        have, kept_back = 0.0, len(target) - place  # a text for each part still to come, training included
        while have < target_seconds and len(order) > kept_back:
            group = by_text[order.pop()]
            drawn |= {item.id: part for item in group}
            have += sum(item.seconds for item in group)
    return drawn


def _describe(items: list[Item], parts: dict[str, str]) -> dict[str, Any]:
    """Sizes of the parts, and what they share with training.

    text_overlap: share of the utterances of dev and test whose text is also read in training;
    speaker_overlap: the same of speakers.
    """
    by_part = {part: [item for item in items if parts[item.id] == part] for part in PARTS}
    speakers = {item.speaker for item in by_part["train"]}
    texts = {item.text for item in by_part["train"]}
    return {
        "parts": {
            part: {
                "utterances": len(group),
                "seconds": round(sum(item.seconds for item in group), 3),
                "speakers": len({item.speaker for item in group}),
                "texts": len({item.text for item in group}),
            }
            for part, group in by_part.items()
        },
        "text_overlap": {
            part: _share([item.text in texts for item in by_part[part]]) for part in ("dev", "test")
        },
        "speaker_overlap": {
            part: _share([item.speaker in speakers for item in by_part[part]]) for part in ("dev", "test")
        },
    }


def _parts_of_speakers(items: Iterable[Item], parts: dict[str, str]) -> dict[str, set[str]]:
    by_speaker: dict[str, set[str]] = defaultdict(set)
    for item in items:
        by_speaker[item.speaker].add(parts[item.id])
    return by_speaker


def _repeated_share(pool: list[Item], drawn: dict[str, str]) -> float:
    """Share of the utterances drawn whose text is also in what is left for training."""
    read = {item.text for item in pool if item.id not in drawn}
    return _share([item.text in read for item in pool if item.id in drawn])


def _share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0
