"""Text, JSON, CTM, TSV and TextGrid."""

import json

import pytest
from praatio import textgrid

from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.transcription import Transcript
from maya.errors import MayaError
from maya.heads import Prediction
from tests.align.formats.transcripts import randomly_timed, timed, transcript

CFG = FormatConfig(model="exp/a")


def test_json_holds_words_seconds_confidence_language_and_model() -> None:
    given = timed("one two.")
    assert given.hypothesis is not None
    given.hypothesis.alternatives = [Hypothesis(text="one too.", search_score=-1.23456)]
    row = json.loads(FORMATS["json"].write(given, CFG))
    assert row == json.loads(FORMATS["jsonl"].write(given, CFG))
    assert row["words"][1] == {"word": "two.", "start": 0.4, "end": 0.7, "confidence": 0.75}
    assert (row["seconds"], row["model"], row["language"], row["confidence"]) == (1.8, "exp/a", "en", 0.625)
    assert row["alternatives"][0]["text"] == "one too." and row["alternatives"][0]["search_score"] == -1.2346
    assert row["segments"][0] == {"text": "one two.", "start": 0.0, "end": 0.7, "confidence": 0.625}


def test_ctm_and_tsv_have_columns() -> None:
    given = timed("एक दो.")
    assert FORMATS["ctm"].write(given, CFG).splitlines()[1] == "talks/a_b.wav 1 0.400 0.300 दो. 0.7500"
    assert FORMATS["tsv"].header.split() == ["file", "channel", "start", "end", "confidence", "text"]
    assert FORMATS["tsv"].write(given, CFG) == "talks/a b.wav\t1\t0.000\t0.700\t0.6250\tएक दो.\n"
    second = transcript([Word(text="a", start=0.0, end=1.0)], channel=2)
    assert FORMATS["ctm"].write(second, CFG) == "talks/a_b.wav 2 0.000 1.000 a\n"


@pytest.mark.parametrize("seed", range(40))
def test_textgrids_are_read_back(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    given = randomly_timed(seed)
    assert given.hypothesis is not None
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    path.write_text(FORMATS["textgrid"].write(given, CFG), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    assert grid.tierNames == ("words", "segments")
    for tier in grid.tiers:
        assert tier.entries[0].start == 0 and tier.entries[-1].end == pytest.approx(grid.maxTimestamp)
        for entry, following in zip(tier.entries, tier.entries[1:], strict=False):
            assert entry.start < entry.end == following.start
    shown = [entry.label for entry in grid.getTier("words").entries if entry.label]
    words = [word.text for word in given.hypothesis.words]
    assert len(shown) <= len(words) and all(label in words for label in shown)


def test_quotes_in_a_textgrid() -> None:
    text = FORMATS["textgrid"].write(timed('say "so"'), CFG)
    assert '""so""' in text


def test_labels_of_a_model_without_text() -> None:
    labels = {"emotion": Prediction(label="happy", probability=0.934)}
    given = Transcript(id="a", place=0, seconds=1.0, predictions=labels)
    assert FORMATS["txt"].write(given, CFG) == "emotion=happy 0.93\n"
    row = json.loads(FORMATS["jsonl"].write(given, CFG))
    assert row["labels"] == {"emotion": {"label": "happy", "probability": 0.934}} and "text" not in row
    for name in ("srt", "vtt", "ctm", "tsv", "textgrid"):
        with pytest.raises(MayaError, match=f"{name} holds text, and this model writes none"):
            FORMATS[name].write(given, CFG)


def test_no_words_at_all() -> None:
    empty = transcript([], seconds=2.0)
    assert FORMATS["txt"].write(empty, CFG) == "\n"
    assert FORMATS["ctm"].write(empty, CFG) == FORMATS["tsv"].write(empty, CFG) == ""
    assert FORMATS["vtt"].write(empty, CFG).strip() == "WEBVTT" and FORMATS["srt"].write(empty, CFG) == ""
    assert "xmax = 2" in FORMATS["textgrid"].write(empty, CFG)
