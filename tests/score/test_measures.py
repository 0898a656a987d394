"""Groups of utterances, rare and hot words, signs of loops, matched pairs, and their summary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.errors import MayaError
from maya.score.measures.groups import KINDS, bucket, group_errors, group_table, words_per_minute
from maya.score.measures.loops import loop_signs, repeated_ngrams, repeats_table
from maya.score.measures.normalizers import NORMALIZERS, make_normalizer
from maya.score.measures.significance import errors_at, matched_pairs, segment_differences
from maya.score.measures.summary import MeasureOptions, measure, measures_result, measures_table
from maya.score.measures.word_lists import aligned_words, count_words, hot_word_score, rare_word_recall
from maya.score.report import Utterance, make_report
from maya.score.wer import wer


def _utterance(i: int, ref: str, hyp: str, **facts: object) -> Utterance:
    return Utterance(id=f"u{i}", language="en", ref=ref, hyp=hyp, **facts)  # type: ignore[arg-type]


def test_buckets_have_their_lower_edge() -> None:
    names = [bucket(x, (2.0, 5.0), "s")[1] for x in (1.9, 2.0, 4.99, 5.0, None)]
    assert names == ["under 2 s", "2 to 5 s", "2 to 5 s", "5 s and more", "unknown"]


def test_groups_by_hand() -> None:
    rows = [
        _utterance(0, "a b", "a b", seconds=1.0, speaker="x", snr=3.0),
        _utterance(1, "a b", "a", seconds=3.0, speaker="y", snr=25.0),
        _utterance(2, "a b c d", "a x c d", seconds=3.0, speaker="x"),
        _utterance(3, "", "a", seconds=0.0),
    ]
    report = make_report(rows, replicates=50)
    tables = group_errors(report)
    assert set(tables) == set(KINDS)
    speakers = {g.name: (g.words.errors, g.words.ref_length, g.rows) for g in tables["speaker"]}
    assert speakers == {"x": (1, 6, (0, 2)), "y": (1, 2, (1,)), "unknown": (1, 0, (3,))}
    assert [g.name for g in tables["length"]] == ["under 2 s", "2 to 5 s", "unknown"]
    assert [g.name for g in tables["snr"]] == ["0 to 5 dB", "20 to 30 dB", "unknown"]
    assert words_per_minute(rows[2]) == 80.0 and words_per_minute(rows[3]) is None
    for kind, groups in tables.items():  # every utterance is in one group of each kind
        assert sorted(i for g in groups for i in g.rows) == [0, 1, 2, 3], kind
        assert sum(g.words.errors for g in groups) == report.pooled.words.errors
    assert "20 to 30 dB" in group_table(tables)
    unmeasured = make_report([_utterance(0, "a", "a")], replicates=10)
    assert group_errors(unmeasured, ("snr", "length"))["snr"] == []


def test_rare_words() -> None:
    counts = count_words(["the cat", "the dog", "the the cow"])
    pairs = aligned_words(["the cat", "the yak ox"], ["the bat", "yak ox the"])
    rows = {r.name: (r.words, r.recall) for r in rare_word_recall(pairs, counts, below=2)}
    assert rows["unseen in training"] == (2, 1.0)  # yak ox
    assert rows["1 to 1 times"] == (1, 0.0)  # cat
    assert rows["2 times and more"] == (2, 0.5)  # the, the
    (none, *_) = rare_word_recall(aligned_words(["the"], ["the"]), counts)
    assert none.words == 0 and math.isnan(none.recall)


def test_hot_words() -> None:
    refs = ["call new york now", "new york is new", "york"]
    hyps = ["call new york now", "new x york is new", "call york"]
    score = hot_word_score(aligned_words(refs, hyps), ["new york", "call", "absent"])
    assert (score.said, score.recognised, score.right) == (3, 3, 2)
    assert score.recall == score.precision == score.f_score == pytest.approx(2 / 3)
    assert score.missed == {"new york": 1} and score.wrong == {"call": 1}
    nothing = hot_word_score(aligned_words(["a"], ["a"]), ["b"])
    assert math.isnan(nothing.recall) and math.isnan(nothing.precision) and math.isnan(nothing.f_score)


def test_repeated_ngrams() -> None:
    runs = repeated_ngrams(["x", "a", "b", "a", "b", "a", "b", "y", "y"])
    assert [(r.words, r.times, r.place) for r in runs] == [(("a", "b"), 3, 1), (("y",), 2, 7)]
    assert [(r.words, r.times) for r in repeated_ngrams(["a"] * 8)] == [(("a",), 8)]
    assert repeated_ngrams([]) == repeated_ngrams(["a", "b"]) == []
    assert repeats_table(["a a a", "a a b b", "c"]) == [("a", 3, 2), ("b", 2, 1)]


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from("ab"), max_size=12),
    gram=st.lists(st.sampled_from("cde"), min_size=1, max_size=4, unique=True),
    times=st.integers(2, 6),
)
def test_a_planted_repeat_is_seen(words: list[str], gram: list[str], times: int) -> None:
    runs = repeated_ngrams([*words, *gram * times, *words])
    assert (tuple(gram), times, len(words)) in [(r.words, r.times, r.place) for r in runs]


def test_loop_rules() -> None:
    assert loop_signs("the cat sat on the mat", 2.0).reasons == []
    assert loop_signs("go go go", 2.0).reasons == []  # three times is speech
    assert loop_signs("go go go go", 2.0).reasons == ["'go' 4 times in a row"]
    assert loop_signs("a b c " * 5, 20.0).reasons[:2] == [
        "'a b c' 5 times in a row",
        "one trigram is 38 % of all",
    ]
    assert loop_signs("a b c d e f g", 1.0).reasons == ["7.0 words a second"]
    assert any(r.startswith("compression") for r in loop_signs("thanks for watching " * 20, 60.0).reasons)
    assert loop_signs("", 3.0).reasons == []


def test_segments_of_matched_pairs() -> None:
    assert errors_at(["a", "b", "c"], ["x", "a", "c", "d"]) == [1, 1, 0, 1]
    # Two words that both have right part two segments; one word does not.
    assert segment_differences([1, 0, 0, 0, 2], [0, 0, 0, 1, 0]) == [-1, -1]
    assert segment_differences([1, 0, 1], [0, 0, 0]) == [-2]
    assert segment_differences([0, 0], [0, 0]) == []


def test_matched_pairs() -> None:
    rng = np.random.default_rng(0)
    refs = [" ".join(rng.choice(list("abcdefgh"), 20)) for _ in range(200)]

    def spoilt(rate: float) -> list[str]:
        return [" ".join(w if rng.random() > rate else "z" for w in r.split()) for r in refs]

    first, second, better = spoilt(0.1), spoilt(0.1), spoilt(0.03)
    same = matched_pairs(refs, first, first)
    assert same.mean == 0 and same.p_value == 1
    assert matched_pairs(refs, first, second).p_value > 0.01
    test = matched_pairs(refs, first, better)
    assert test.p_value < 1e-6 and test.z < 0
    total = (wer(refs, better).errors - wer(refs, first).errors) / test.segments
    assert test.mean == pytest.approx(total)  # every error is in one segment
    assert matched_pairs(refs, better, first).z == pytest.approx(-test.z)
    assert math.isnan(matched_pairs(["a"], ["a"], ["b"]).p_value)


def test_summary() -> None:
    rows = [
        _utterance(0, "the cat", "the bat", seconds=2.0, speaker="x", snr=12.0),
        _utterance(1, "go", "go go go go go", seconds=2.0, speaker="y", snr=30.0),
        Utterance(id="h", language="hi", ref="हिन्दी में", hyp="हिंदी में", seconds=1.0),
    ]
    options = MeasureOptions(training_counts=count_words(["the the"]), rare_below=3, hot_words=["the"])
    measures = measure(make_report(rows, replicates=50), options)
    assert measures.lenient.words.errors == measures.report.pooled.words.errors - 1
    text = measures_table(measures, groups=True)
    for part in (
        "lenient WER",
        "words/min",
        "unseen in training",
        "hot words: recall 100.00 %",
        "'go' 5 times",
    ):
        assert part in text
    result = measures_result(measures)
    json.dumps(result, allow_nan=False)
    assert result["languages"]["hi"]["lenient_wer"] == 0.0
    assert result["loops"]["suspicious"] == {"u1": ["'go' 5 times in a row"]}


def test_normalizers() -> None:
    assert make_normalizer("maya")("Hello, World १२", "en") == "hello world 12"
    assert make_normalizer("none")(" Hello,  World", "en") == "Hello, World"
    with pytest.raises(MayaError, match="unknown normaliser"):
        make_normalizer("best")
    pytest.importorskip("whisper_normalizer")
    assert (
        make_normalizer("whisper-english")("The colour isn't twenty-one Mr. X", "en")
        == "the color is not 21 mister x"
    )
    assert make_normalizer("leaderboard")("uh, the [noise] colour", "en") == "the color"
    assert make_normalizer("whisper-marks")("हिन्दी!", "hi") == "हिन्दी"
    assert make_normalizer("whisper")("हिन्दी!", "hi") != "हिन्दी"
    assert len(NORMALIZERS) == 6
