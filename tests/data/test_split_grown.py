"""A corpus that grew keeps its earlier split."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.data.prepare.split import SplitConfig
from tests.data.splitting import EarlierSplit, Item, split

Parts = dict[str, str]


def items(language: str, speakers: range, each: range, text: str = "{s}-{k}") -> list[Item]:
    """`each` utterances of each speaker; text: a pattern of speaker and number."""
    return [
        Item(id=f"{language}-{s}-{k}", language=language, speaker=f"{language}{s}",
             text=text.format(s=s, k=k), seconds=1.0 + (s * 7 + k * 3) % 5)
        for s in speakers
        for k in each
    ]  # fmt: skip


def parts_of(corpus: list[Item], parts: Parts, name: str, language: str = "") -> dict[str, set[str]]:
    """The parts of each value of a field."""
    places: dict[str, set[str]] = defaultdict(set)
    for item in corpus:
        if not language or item.language == language:
            places[getattr(item, name)].add(parts[item.id])
    return places


def grown(
    before: list[Item], after: list[Item], cfg: SplitConfig | None = None
) -> tuple[Parts, Parts, dict[str, str]]:
    """(parts before, parts after, methods after)"""
    cfg = cfg or SplitConfig()
    first, report = split(before, cfg)
    earlier = EarlierSplit(parts=first, methods={code: facts["method"] for code, facts in report.items()})
    second, report = split(after, cfg, earlier)
    return first, second, {code: facts["method"] for code, facts in report.items()}


def share(some: list[Item], parts: Parts, part: str) -> float:
    return sum(i.seconds for i in some if parts[i.id] == part) / sum(i.seconds for i in some)


def test_an_unchanged_corpus_keeps_its_split_with_any_seed() -> None:
    corpus = items("hi", range(30), range(5)) + items("bn", range(1), range(50))
    first, report = split(corpus, SplitConfig())
    earlier = EarlierSplit(parts=first, methods={code: facts["method"] for code, facts in report.items()})
    second, again = split(corpus[::-1], SplitConfig(seed=5), earlier)
    assert second == first and again == report


def test_new_utterances_of_held_out_speakers_join_them() -> None:
    before, added = items("hi", range(20), range(10)), items("hi", range(20), range(10, 15))
    first, second, methods = grown(before, before + added)
    assert all(second[name] == part for name, part in first.items())
    assert all(len(parts) == 1 for parts in parts_of(before + added, second, "speaker").values())
    assert {second[item.id] for item in added} == {"train", "dev", "test"} and methods == {"hi": "speaker"}


def test_new_speakers_are_held_out_until_the_shares_are_full() -> None:
    before = items("hi", range(20), range(10))
    after = before + items("hi", range(20, 60), range(10))
    first, second, _ = grown(before, after)
    assert all(second[name] == part for name, part in first.items())
    for part in ("dev", "test"):
        assert share(after, second, part) == pytest.approx(0.1, abs=0.03)
    small = grown(before, before + items("hi", range(20, 21), range(10)))[1]
    assert {small[item.id] for item in after if item.speaker == "hi20"} == {"train"}


def test_a_language_stays_split_by_text() -> None:
    before, added = items("kn", range(1), range(60), "t{k}"), items("kn", range(1), range(60, 200), "t{k}")
    repeated = [replace(item, id=f"again-{item.id}") for item in before]
    first, second, methods = grown(before, before + added + repeated)
    assert methods == {"kn": "text"} and all(second[name] == part for name, part in first.items())
    assert all(second[f"again-{item.id}"] == second[item.id] for item in before)
    for part in ("dev", "test"):
        assert share(before + added + repeated, second, part) == pytest.approx(0.1, abs=0.03)


def test_a_new_speaker_with_held_out_texts_joins_the_held_out_part() -> None:
    """Two speakers read the same prompts; the new speaker joins the part with its texts."""
    before = items("kn", range(1), range(60), "t{k}")
    first, _ = split(before, SplitConfig())
    held = [item for item in before if first[item.id] == "test"]
    same = [replace(item, id=f"n-{item.id}", speaker="new") for item in held[:2]]
    own = [Item(id="n-own", language="kn", speaker="new", text="a text of its own", seconds=1.0)]
    every = [replace(item, id=f"e-{item.id}", speaker="everything") for item in before]
    second = grown(before, before + same + own + every)[1]
    assert all(len(parts) == 1 for parts in parts_of(before + same + every, second, "text").values())
    assert {second[item.id] for item in same} == {"test"}
    few = grown(before, before + same)[1]
    assert {few[item.id] for item in same} == {"test"}


def test_one_common_text_does_not_move_a_large_speaker_to_test() -> None:
    before = items("kn", range(1), range(60), "t{k}")
    first, _ = split(before, SplitConfig())
    text = next(item.text for item in before if first[item.id] == "test")
    large = [
        Item(id=f"l{k}", language="kn", speaker="large", text=text if k == 0 else f"l{k}", seconds=3.0)
        for k in range(500)
    ]
    second = grown(before, before + large)[1]
    assert second["l0"] == "test" and share(large, second, "train") > 0.9


def test_a_language_without_held_out_parts_may_get_some_when_it_grows() -> None:
    few = items("as", range(1), range(2), "t{k}")
    first, second, methods = grown(few, few + items("as", range(1, 12), range(5)))
    assert set(first.values()) == {"train"} and methods == {"as": "speaker"}
    assert {second[item.id] for item in few} == {"train"} and set(second.values()) == {"train", "dev", "test"}
    _, second, methods = grown(few, few + items("as", range(1), range(2, 60), "t{k}"))
    assert methods == {"as": "text"} and set(second.values()) == {"train", "dev", "test"}
    _, second, methods = grown(few, few + [replace(few[0], id="again")])
    assert methods == {"as": "train"} and set(second.values()) == {"train"}


def test_parts_named_by_the_corpus_override_the_earlier_split() -> None:
    before = items("en", range(20), range(5))
    first, _ = split(before, SplitConfig())
    mover = next(item for item in before if first[item.id] == "train")
    after = [replace(item, part="test" if item.speaker == mover.speaker else None) for item in before]
    second = grown(before, after)[1]
    assert {second[item.id] for item in after if item.part == "test"} == {"test"}
    assert all(second[i.id] == first[i.id] for i in after if i.speaker != mover.speaker)
    named = [replace(item, part={"en0": "test", "en1": "dev"}.get(item.speaker, "train")) for item in before]
    assert all(grown(before, named)[1][item.id] == item.part for item in named)


def test_new_utterances_use_the_parts_of_the_corpus() -> None:
    before = [
        replace(i, part="test" if i.speaker == "en0" else "train") for i in items("en", range(12), range(5))
    ]
    added = [replace(item, part="train") for item in items("en", range(12, 14), range(5))]
    added += [replace(item, part="test") for item in items("en", range(14, 15), range(5))]
    first, second, methods = grown(before, before + added)
    assert methods == {"en": "manifest+speaker"} and all(second[n] == part for n, part in first.items())
    assert {second[item.id] for item in added if item.part == "test"} == {"test"}
    assert all("test" not in parts_of(added, second, "speaker")[f"en{s}"] for s in (12, 13))


def test_a_new_language_keeps_the_parts_of_known_speakers() -> None:
    hindi = items("hi", range(20), range(5))
    first, _ = split(hindi, SplitConfig())
    urdu = [replace(item, id=f"ur-{item.id}", language="ur", text=f"ur {item.text}") for item in hindi]
    second = grown(hindi, hindi + urdu)[1]
    assert all(second[item.id] == first[item.id] == second[f"ur-{item.id}"] for item in hindi)


def test_removed_utterances_do_not_move_others() -> None:
    before = items("hi", range(20), range(10))
    first, second, _ = grown(before, before[::2])
    assert second == {name: first[name] for name in second}


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["hi", "en"]), st.integers(0, 6), st.integers(0, 8), st.floats(0.2, 20),
        st.sampled_from(["old", "new", "gone"]),
    ),
    min_size=1,
    max_size=60,
)  # fmt: skip


@given(ROWS, st.sampled_from([(0.1, 0.1), (0.0, 0.1), (0.3, 0.0), (0.0, 0.0)]))
@settings(max_examples=150, deadline=None)
def test_random_growth_keeps_the_split(
    rows: list[tuple[str, int, int, float, str]], shares: tuple[float, float]
) -> None:
    """No utterance changes its part. No speaker or text is in two parts unless it was before."""
    cfg = SplitConfig(dev=shares[0], test=shares[1])
    every = [
        (Item(id=str(n), language=code, speaker=f"s{s}", text=f"t{t}", seconds=seconds), age)
        for n, (code, s, t, seconds, age) in enumerate(rows)
    ]
    before = [item for item, age in every if age != "new"]
    after = [item for item, age in every if age != "gone"]
    first, second, methods = grown(before, after, cfg)
    assert second.keys() == {item.id for item in after}
    assert all(second[name] == part for name, part in first.items() if name in second)
    for language, method in methods.items():
        if method in ("speaker", "text"):
            was = parts_of(before, first, method, language)
            for value, parts in parts_of(after, second, method, language).items():
                assert len(parts) == 1 or len(was[value]) > 1, (method, value)
    earlier = EarlierSplit(parts=second, methods=methods)
    order = np.random.default_rng(len(rows)).permutation(len(after)).tolist()
    assert split([after[i] for i in order], cfg, earlier)[0] == second
    again = EarlierSplit(parts=first, methods={c: f["method"] for c, f in split(before, cfg)[1].items()})
    assert split(after[::-1], cfg, again)[0] == second
