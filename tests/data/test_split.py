import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.data.prepare.split import Item, SplitConfig, split
from maya.errors import MayaError
from maya.text.normalize import normalize


def items(language: str, speakers: int, each: int, texts: int = 10**6, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(
            id=f"{language}-{s}-{k}", language=language, speaker=f"{language}{s}",
            text=f"text {(s * each + k) % texts}", seconds=float(rng.uniform(1, 5)),
        )
        for s in range(speakers)
        for k in range(each)
    ]  # fmt: skip


def by_part(some: list[Item], parts: dict[str, str]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {"train": [], "dev": [], "test": []}
    for item in some:
        found[parts[item.id]].append(item)
    return found


def overlap(found: dict[str, list[Item]], name: str) -> set[str]:
    """Values that occur in more than one part."""
    seen: dict[str, set[str]] = defaultdict(set)
    for part, mine in found.items():
        for item in mine:
            seen[getattr(item, name)].add(part)
    return {value for value, parts in seen.items() if len(parts) > 1}


def test_speakers_are_disjoint_and_sizes_are_met() -> None:
    mine = items("hi", 40, 10)
    parts, report = split(mine, SplitConfig(dev=0.1, test=0.2))
    found = by_part(mine, parts)
    assert not overlap(found, "speaker")
    total = sum(i.seconds for i in mine)
    assert sum(i.seconds for i in found["dev"]) / total == pytest.approx(0.1, abs=0.03)
    assert sum(i.seconds for i in found["test"]) / total == pytest.approx(0.2, abs=0.05)
    assert report["hi"]["method"] == "speaker"
    for part in ("train", "dev", "test"):
        assert report["hi"]["parts"][part]["utterances"] == len(found[part])
        assert report["hi"]["parts"][part]["speakers"] == len({i.speaker for i in found[part]})
    assert report["hi"]["text_overlap"] == report["hi"]["speaker_overlap"] == {"dev": 0.0, "test": 0.0}


def test_sentences_read_by_everyone_stay_and_are_reported() -> None:
    mine = items("ml", 11, 50, texts=50)
    parts, report = split(mine, SplitConfig())
    found = by_part(mine, parts)
    assert sum(map(len, found.values())) == len(mine) and not overlap(found, "speaker")
    assert report["ml"]["text_overlap"] == {"dev": 1.0, "test": 1.0}


def test_the_draw_with_few_repeated_texts_is_kept() -> None:
    """Half of the speakers read texts of their own, half read the same ones: the former are held out."""
    own, common = items("ta", 10, 10), items("ta", 10, 10, texts=10)
    mine = own + [
        Item(id=f"c{i.id}", language="ta", speaker=f"c{i.speaker}", text=f"c{i.text}", seconds=i.seconds)
        for i in common
    ]
    _, report = split(mine, SplitConfig())
    assert max(report["ta"]["text_overlap"].values()) == 0.0


@pytest.mark.parametrize("speakers", [1, 2])
def test_too_few_speakers_are_split_by_text(speakers: int) -> None:
    mine = items("kn", speakers, 60, texts=40)
    parts, report = split(mine, SplitConfig())
    found = by_part(mine, parts)
    assert not overlap(found, "text") and all(found.values())
    assert report["kn"]["method"] == "text"
    assert report["kn"]["speaker_overlap"]["test"] == 1.0


def test_one_dominant_speaker_stays_in_training() -> None:
    mine = [
        *items("pa", 6, 5),
        *(Item(id=f"x{k}", language="pa", speaker="big", text=f"x{k}", seconds=3.0) for k in range(200)),
    ]
    parts, report = split(mine, SplitConfig())
    assert report["pa"]["method"] == "speaker"
    assert {parts[f"x{k}"] for k in range(200)} == {"train"}


def test_a_speaker_is_in_one_part_over_all_languages() -> None:
    """One voice of Hindi is the only voice of Marathi, where it trains: it cannot be held out in Hindi."""
    hindi = items("hi", 10, 10)
    marathi = [
        Item(id=f"mr-{k}", language="mr", speaker="hi3", text=f"मराठी {k}", seconds=2.0) for k in range(30)
    ]
    bengali = [
        Item(id=f"bn-{i.id}", language="bn", speaker=i.speaker, text=f"bn {i.text}", seconds=i.seconds)
        for i in items("hi", 10, 4)
    ]
    for seed in range(10):
        parts, report = split(hindi + marathi + bengali, SplitConfig(seed=seed))
        assert {parts[i.id] for i in hindi if i.speaker == "hi3"} == {"train"}
        assert report["mr"]["method"] == "text"
        assert not overlap(by_part(hindi + bengali, parts), "speaker")


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_text_is_all_training(count: int) -> None:
    mine = items("as", 1, 10, texts=count)
    parts, report = split(mine, SplitConfig())
    assert set(parts.values()) == {"train"} and report["as"]["method"] == "train"


def with_parts(mine: list[Item], given: dict[str, str]) -> list[Item]:
    return [replace(item, part=given.get(item.speaker)) for item in mine]


def test_the_corpus_own_parts_are_kept() -> None:
    given = {"en0": "test", "en1": "dev"} | {f"en{s}": "train" for s in range(2, 10)}
    mine = with_parts(items("en", 10, 5), given)
    parts, report = split(mine, SplitConfig(seed=3))
    assert all(parts[item.id] == item.part for item in mine)
    assert report["en"]["method"] == "manifest"


def test_a_part_the_corpus_does_not_name_is_drawn_from_training() -> None:
    given = {"en0": "test", "en1": "test"} | {f"en{s}": "train" for s in range(2, 20)}
    mine = with_parts(items("en", 20, 5), given)
    parts, report = split(mine, SplitConfig())
    found = by_part(mine, parts)
    assert {i.speaker for i in found["test"]} == {"en0", "en1"}
    assert found["dev"] and not overlap(found, "speaker")
    assert report["en"]["method"] == "manifest+speaker"


def test_a_speaker_the_corpus_tests_is_not_drawn_for_dev() -> None:
    """A voice that is in the corpus's test part and in its training part must not be in dev as well."""
    mine = [
        replace(item, part="test" if item.speaker == "en0" and item.id.endswith("-0") else "train")
        for item in items("en", 6, 5)
    ]
    for seed in range(10):
        parts, _ = split(mine, SplitConfig(seed=seed))
        assert {parts[item.id] for item in mine if item.speaker == "en0"} == {"train", "test"}


def test_parts_given_to_some_only() -> None:
    mine = with_parts(items("en", 10, 5), {"en0": "test", "en1": "dev"})
    parts, report = split(mine, SplitConfig())
    assert {item.speaker for item in mine if parts[item.id] != "train"} == {"en0", "en1"}
    assert report["en"]["method"] == "manifest"


def test_order_does_not_matter_and_seed_does() -> None:
    mine = items("hi", 30, 5) + items("bn", 1, 50)
    forward, _ = split(mine, SplitConfig())
    backward, _ = split(mine[::-1], SplitConfig())
    other, _ = split(mine, SplitConfig(seed=1))
    assert forward == backward and forward != other


def test_hours_are_capped() -> None:
    mine = items("hi", 300, 2)
    _, report = split(mine, SplitConfig(max_hours=60 / 3600))
    assert report["hi"]["parts"]["dev"]["seconds"] < 80


def test_no_part_may_be_wanted() -> None:
    mine = items("hi", 10, 5)
    parts, _ = split(mine, SplitConfig(dev=0.0))
    assert set(parts.values()) == {"train", "test"}
    parts, report = split(mine, SplitConfig(dev=0.0, test=0.0))
    assert set(parts.values()) == {"train"} and report["hi"]["method"] == "train"


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(MayaError, match=r"dev=0\.3 and test=0\.3 leave less than min_train=0\.5"):
        split(items("hi", 3, 3), SplitConfig(dev=0.3, test=0.3))


@given(
    st.lists(
        st.tuples(st.sampled_from(["hi", "en"]), st.integers(0, 6), st.integers(0, 8), st.floats(0.2, 20)),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_random_corpora_are_split(rows: list[tuple[str, int, int, float]]) -> None:
    """Every utterance gets a part, a language is never without training data, and what is promised holds."""
    mine = [
        Item(id=str(n), language=language, speaker=f"s{speaker}", text=f"t{text}", seconds=seconds)
        for n, (language, speaker, text, seconds) in enumerate(rows)
    ]
    parts, report = split(mine, SplitConfig())
    assert parts.keys() == {item.id for item in mine}
    for language, told in report.items():
        found = by_part([item for item in mine if item.language == language], parts)
        assert found["train"]
        if told["method"] == "speaker":
            assert not overlap(found, "speaker")
            assert told["speaker_overlap"] == {"dev": 0.0, "test": 0.0}
        if told["method"] == "text":
            assert not overlap(found, "text")
            assert told["text_overlap"] == {"dev": 0.0, "test": 0.0}
        if told["method"] != "train":
            assert found["dev"] and found["test"]


def test_real_corpus(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "corpora/indic12/manifest.jsonl").open(encoding="utf-8")]
    mine = [
        Item(
            id=r["id"], language=r["language"], speaker=r["speaker"], seconds=r["duration"],
            text=normalize(r["text"], r["language"]),
        )
        for r in rows
    ]  # fmt: skip
    parts, report = split(mine, SplitConfig())
    methods = {language: told["method"] for language, told in report.items()}
    by_text = {"as", "kn", "mr", "or", "te"}
    assert methods == {code: "text" if code in by_text else "speaker" for code in methods}
    none = {"dev": 0.0, "test": 0.0}
    assert all(report[code]["speaker_overlap"] == none for code in methods if code not in by_text)
    assert report["ml"]["text_overlap"]["test"] > 0.5, "the same sentences are read by all"
    assert all(told["parts"][part]["utterances"] >= 5 for told in report.values() for part in ("dev", "test"))
    held = {i.speaker for i in mine if parts[i.id] != "train" and i.language not in by_text}
    assert not held & {i.speaker for i in mine if parts[i.id] == "train"}
