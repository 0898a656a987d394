import json
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.score.report import Utterance, make_report, score_utterances, table, write_errors, write_result


def utterance(id: str, language: str, ref: str, hyp: str, speaker: str | None = None) -> Utterance:
    return Utterance(id=id, language=language, ref=ref, hyp=hyp, seconds=36.0, speaker=speaker)


UTTERANCES = [
    utterance("t1", "ta", "நல்ல காலை", "நல்ல காலை"),
    utterance("h1", "hi", "आज मौसम अच्छा है", "आज मौसम अच्छी"),
    utterance("t2", "ta", "ஒன்று", "இரண்டு மூன்று"),
    utterance("h2", "hi", "हाँ", "हाँ"),
    utterance("e1", "en", "", "noise"),
    utterance("e2", "en", "one", "one"),
]


def test_languages_are_scored_separately() -> None:
    report = make_report(UTTERANCES)
    rates = {s.code: s.words.rate for s in report.languages}
    assert rates == {"en": 1.0, "hi": 2 / 5, "ta": 2 / 3}
    assert report.macro_wer == pytest.approx((1 + 2 / 5 + 2 / 3) / 3)
    assert report.pooled.words.rate == 5 / 9
    assert [s.hours for s in report.languages] == pytest.approx([0.02] * 3)


def test_every_utterance_keeps_its_own_counts() -> None:
    # The input is not in order of language; counts must still belong to their utterance.
    scored = {
        s.utterance.id: (s.words.errors, s.words.ref_length)
        for s in score_utterances(make_report(UTTERANCES))
    }
    assert scored == {"t1": (0, 2), "h1": (2, 4), "t2": (2, 1), "h2": (0, 1), "e1": (1, 0), "e2": (0, 1)}


def test_speaker_blocks_follow_the_utterances() -> None:
    # Speaker a is always right, b always wrong. If the labels were not sorted with the utterances, draws of
    # whole speakers would mix right and wrong, and the pooled interval would be narrower than 0 to 1.
    rows = [
        utterance(f"{lang}{i}", lang, "one", "one" if i % 2 else "two", "a" if i % 2 else "b")
        for i in range(20)
        for lang in ("ta", "hi")
    ]
    report = make_report(rows, by_speaker=True)
    assert (report.pooled.wer_interval.low, report.pooled.wer_interval.high) == (0.0, 1.0)
    assert make_report(rows).pooled.wer_interval.low > 0.2


def test_table_fits_a_terminal_and_shows_every_language() -> None:
    text = table(make_report(UTTERANCES))
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["hi"][:6] == ["hi", "Hindi", "0.02", "2", "5", "40.00"]
    assert lines["all"][5] == "55.56"
    assert lines["macro"][:5] == ["macro", "average", "of", "3", "languages"]
    assert lines["macro"][5] == "68.89"


def test_table_columns_are_aligned() -> None:
    lines = table(make_report(UTTERANCES)).splitlines()
    column = lines[0].index("WER %") + len("WER %")
    for start in ("en", "hi", "ta", "all", "macro"):
        line = next(x for x in lines if x.startswith(start))
        assert line[column - 3] == "." and line[column] == " "


def test_table_makes_room_for_long_names() -> None:
    rows = [utterance("a", "ary", "a b", "a"), utterance("b", "zh-Hant-TW", "a b", "a")]
    lines = table(make_report(rows)).splitlines()
    place = lines[0].index("WER %")
    for start in ("ary   ", "zh-Hant-TW Chinese (Hant-TW) ", "all   ", "macro "):
        assert next(x for x in lines if x.startswith(start))[place : place + 5] == "50.00"


def test_one_language_has_no_pooled_line() -> None:
    text = table(make_report(UTTERANCES[:1]))
    assert "pooled" not in text and "macro average of 1 language " in text


def test_result_is_strict_json_with_nulls(tmp_path: Path) -> None:
    report = make_report([utterance("a", "en", "", "heard")])
    write_result(report, tmp_path / "result.json", {"commit": "abc"})
    content = json.loads(
        (tmp_path / "result.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert content["commit"] == "abc"
    assert content["languages"]["en"]["wer"] is None  # one word heard where none was said: no finite rate
    assert content["languages"]["en"]["words"]["insertions"] == 1
    assert content["macro"]["wer"] is None


def test_errors_are_listed_worst_first_and_marked(tmp_path: Path) -> None:
    write_errors(make_report(UTTERANCES), tmp_path / "errors.txt")
    text = (tmp_path / "errors.txt").read_text()
    ids = [line.split()[0] for line in text.splitlines() if "WER" in line]
    assert ids == ["e1", "t2", "h1"]  # infinite, 200 %, 50 %; the right ones are not listed
    assert "ref: आज मौसम [अच्छा] [है]\nhyp: आज मौसम [अच्छी] [*]" in text
    assert "ref: [*]\nhyp: [noise]" in text
    assert text.startswith("# 3 utterances with errors of 6")


def test_empty_lists_and_duplicate_ids_are_refused() -> None:
    with pytest.raises(MayaError, match="nothing to score"):
        make_report([])
    with pytest.raises(MayaError, match="'h1' was decoded 2 times"):
        make_report([UTTERANCES[1], UTTERANCES[1]])
