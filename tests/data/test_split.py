import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.data.prepare.split import SplitConfig
from maya.errors import MayaError
from maya.text.normalize import normalize
from tests.data.splitting import Item, split


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


def by_part(corpus: list[Item], parts: dict[str, str]) -> dict[str, list[Item]]:
    by_part_items: dict[str, list[Item]] = {"train": [], "dev": [], "test": []}
    for item in corpus:
        by_part_items[parts[item.id]].append(item)
    return by_part_items


def overlap(parts: dict[str, list[Item]], name: str) -> set[str]:
    """The values of field `name` that occur in more than one part."""
    seen: dict[str, set[str]] = defaultdict(set)
    for part, part_items in parts.items():
        for item in part_items:
            seen[getattr(item, name)].add(part)
    return {value for value, places in seen.items() if len(places) > 1}


def test_speakers_are_disjoint_and_sizes_are_met() -> None:
    corpus = items("hi", 40, 10)
    parts, report = split(corpus, SplitConfig(dev=0.1, test=0.2))
    split_items = by_part(corpus, parts)
    assert not overlap(split_items, "speaker")
    total = sum(i.seconds for i in corpus)
    assert sum(i.seconds for i in split_items["dev"]) / total == pytest.approx(0.1, abs=0.03)
    assert sum(i.seconds for i in split_items["test"]) / total == pytest.approx(0.2, abs=0.05)
    assert report["hi"]["method"] == "speaker"
    for part in ("train", "dev", "test"):
        assert report["hi"]["parts"][part]["utterances"] == len(split_items[part])
        assert report["hi"]["parts"][part]["speakers"] == len({i.speaker for i in split_items[part]})
    assert report["hi"]["text_overlap"] == report["hi"]["speaker_overlap"] == {"dev": 0.0, "test": 0.0}


def test_sentences_read_by_all_speakers_are_kept_and_reported() -> None:
    corpus = items("ml", 11, 50, texts=50)
    parts, report = split(corpus, SplitConfig())
    split_items = by_part(corpus, parts)
    assert sum(map(len, split_items.values())) == len(corpus) and not overlap(split_items, "speaker")
    assert report["ml"]["text_overlap"] == {"dev": 1.0, "test": 1.0}


def test_the_split_with_fewest_repeated_texts_is_used() -> None:
    """Half of the speakers read their own texts, half read common texts. The former are held out."""
    own, common = items("ta", 10, 10), items("ta", 10, 10, texts=10)
    corpus = own + [
        Item(id=f"c{i.id}", language="ta", speaker=f"c{i.speaker}", text=f"c{i.text}", seconds=i.seconds)
        for i in common
    ]
    _, report = split(corpus, SplitConfig())
    assert max(report["ta"]["text_overlap"].values()) == 0.0


@pytest.mark.parametrize("speakers", [1, 2])
def test_too_few_speakers_are_split_by_text(speakers: int) -> None:
    corpus = items("kn", speakers, 60, texts=40)
    parts, report = split(corpus, SplitConfig())
    split_items = by_part(corpus, parts)
    assert not overlap(split_items, "text") and all(split_items.values())
    assert report["kn"]["method"] == "text"
    assert report["kn"]["speaker_overlap"]["test"] == 1.0


def test_one_dominant_speaker_stays_in_training() -> None:
    corpus = [
        *items("pa", 6, 5),
        *(Item(id=f"x{k}", language="pa", speaker="big", text=f"x{k}", seconds=3.0) for k in range(200)),
    ]
    parts, report = split(corpus, SplitConfig())
    assert report["pa"]["method"] == "speaker"
    assert {parts[f"x{k}"] for k in range(200)} == {"train"}


def test_a_speaker_is_in_one_part_over_all_languages() -> None:
    """The only Marathi speaker also speaks Hindi. They train in Marathi and are not held out in Hindi."""
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
def test_few_texts_are_all_training_data(count: int) -> None:
    corpus = items("as", 1, 10, texts=count)
    parts, report = split(corpus, SplitConfig())
    assert set(parts.values()) == {"train"} and report["as"]["method"] == "train"


def with_parts(corpus: list[Item], given: dict[str, str]) -> list[Item]:
    return [replace(item, part=given.get(item.speaker)) for item in corpus]


def test_parts_named_by_the_corpus_are_kept() -> None:
    given = {"en0": "test", "en1": "dev"} | {f"en{s}": "train" for s in range(2, 10)}
    corpus = with_parts(items("en", 10, 5), given)
    parts, report = split(corpus, SplitConfig(seed=3))
    assert all(parts[item.id] == item.part for item in corpus)
    assert report["en"]["method"] == "manifest"


def test_an_unnamed_part_is_drawn_from_training() -> None:
    given = {"en0": "test", "en1": "test"} | {f"en{s}": "train" for s in range(2, 20)}
    corpus = with_parts(items("en", 20, 5), given)
    parts, report = split(corpus, SplitConfig())
    split_items = by_part(corpus, parts)
    assert {i.speaker for i in split_items["test"]} == {"en0", "en1"}
    assert split_items["dev"] and not overlap(split_items, "speaker")
    assert report["en"]["method"] == "manifest+speaker"


def test_speakers_in_the_test_part_are_not_drawn_for_dev() -> None:
    """A speaker in both the test and the training part of the corpus must not be in dev too."""
    corpus = [
        replace(item, part="test" if item.speaker == "en0" and item.id.endswith("-0") else "train")
        for item in items("en", 6, 5)
    ]
    for seed in range(10):
        parts, _ = split(corpus, SplitConfig(seed=seed))
        assert {parts[item.id] for item in corpus if item.speaker == "en0"} == {"train", "test"}


def test_some_speakers_have_a_part_in_the_corpus() -> None:
    corpus = with_parts(items("en", 10, 5), {"en0": "test", "en1": "dev"})
    parts, report = split(corpus, SplitConfig())
    assert {item.speaker for item in corpus if parts[item.id] != "train"} == {"en0", "en1"}
    assert report["en"]["method"] == "manifest"


def test_split_depends_on_seed_not_on_order() -> None:
    corpus = items("hi", 30, 5) + items("bn", 1, 50)
    forward, _ = split(corpus, SplitConfig())
    backward, _ = split(corpus[::-1], SplitConfig())
    other, _ = split(corpus, SplitConfig(seed=1))
    assert forward == backward and forward != other


def test_hours_are_capped() -> None:
    corpus = items("hi", 300, 2)
    _, report = split(corpus, SplitConfig(max_hours=60 / 3600))
    assert report["hi"]["parts"]["dev"]["seconds"] < 80


def test_dev_and_test_can_be_switched_off() -> None:
    corpus = items("hi", 10, 5)
    parts, _ = split(corpus, SplitConfig(dev=0.0))
    assert set(parts.values()) == {"train", "test"}
    parts, report = split(corpus, SplitConfig(dev=0.0, test=0.0))
    assert set(parts.values()) == {"train"} and report["hi"]["method"] == "train"


def test_shares_without_training_data_are_refused() -> None:
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
    """Every utterance has a part, every language has training data, and the report is correct."""
    corpus = [
        Item(id=str(n), language=language, speaker=f"s{speaker}", text=f"t{text}", seconds=seconds)
        for n, (language, speaker, text, seconds) in enumerate(rows)
    ]
    parts, report = split(corpus, SplitConfig())
    assert parts.keys() == {item.id for item in corpus}
    for language, language_report in report.items():
        split_items = by_part([item for item in corpus if item.language == language], parts)
        assert split_items["train"]
        if language_report["method"] == "speaker":
            assert not overlap(split_items, "speaker")
            assert language_report["speaker_overlap"] == {"dev": 0.0, "test": 0.0}
        if language_report["method"] == "text":
            assert not overlap(split_items, "text")
            assert language_report["text_overlap"] == {"dev": 0.0, "test": 0.0}
        if language_report["method"] != "train":
            assert split_items["dev"] and split_items["test"]


def test_real_corpus(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "corpora/indic12/manifest.jsonl").open(encoding="utf-8")]
    corpus = [
        Item(
            id=r["id"], language=r["language"], speaker=r["speaker"], seconds=r["duration"],
            text=normalize(r["text"], r["language"]),
        )
        for r in rows
    ]  # fmt: skip
    parts, report = split(corpus, SplitConfig())
    methods = {language: language_report["method"] for language, language_report in report.items()}
    by_text = {"as", "kn", "mr", "or", "te"}
    assert methods == {code: "text" if code in by_text else "speaker" for code in methods}
    none = {"dev": 0.0, "test": 0.0}
    assert all(report[code]["speaker_overlap"] == none for code in methods if code not in by_text)
    assert report["ml"]["text_overlap"]["test"] > 0.5, "all speakers read the same sentences"
    assert all(
        language_report["parts"][part]["utterances"] >= 5
        for language_report in report.values()
        for part in ("dev", "test")
    )
    held = {i.speaker for i in corpus if parts[i.id] != "train" and i.language not in by_text}
    assert not held & {i.speaker for i in corpus if parts[i.id] == "train"}
