"""Subtitles follow the rules, whatever the words, and other programs read them."""

import re

import pysubs2
import pytest

from maya.align.formats.base import FormatConfig
from maya.align.formats.cues import columns, cues
from maya.align.formats.subtitles import srt, vtt
from maya.decode.hypothesis import Word
from maya.errors import MayaError
from tests.align.formats.transcripts import TEXTS, randomly_timed, timed, transcript

_TIMES = {
    "srt": re.compile(r"(\d\d):(\d\d):(\d\d),(\d\d\d) --> (\d\d):(\d\d):(\d\d),(\d\d\d)"),
    "vtt": re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d\d\d) --> (\d\d):(\d\d):(\d\d)\.(\d\d\d)"),
}
WRITERS = {"srt": srt, "vtt": vtt}


def strictly_parsed(text: str, kind: str) -> list[tuple[int, int, list[str]]]:
    """(start, end, lines) of each subtitle in ms. AssertionError for what the format does not allow."""
    blocks = text.split("\n\n")
    if kind == "vtt":
        assert blocks.pop(0) == "WEBVTT"
    assert blocks.pop() == ""
    parsed = []
    for number, block in enumerate(blocks, start=1):
        head, times, *lines = block.split("\n")
        assert head == str(number) and lines and all(line.strip() for line in lines)
        assert not any("-->" in line for line in lines)
        match = _TIMES[kind].fullmatch(times)
        assert match, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        assert max(m, s, m2, s2) < 60
        parsed.append((((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2, lines))
    return parsed


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@pytest.mark.parametrize("seed", range(40))
def test_any_words_give_valid_subtitles(kind: str, seed: int) -> None:
    given = randomly_timed(seed)
    assert given.hypothesis is not None
    cfg = FormatConfig(words_per_line=seed % 3)
    text = WRITERS[kind](given, cfg)
    parsed = strictly_parsed(text, kind) if text.strip() != "WEBVTT" and text else []
    last = 0
    for start, end, lines in parsed:
        assert last <= start < end
        assert len(lines) <= cfg.lines
        assert (
            all(columns(line) <= cfg.line_columns or " " not in line for line in lines) or cfg.words_per_line
        )
        last = end
    shown = " ".join(line for _, _, lines in parsed for line in lines)
    for written, plain in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        shown = shown.replace(written, plain) if kind == "vtt" else shown
    expected = given.hypothesis.text if kind == "vtt" else given.hypothesis.text.replace("-->", "→")
    assert "".join(shown.split()) == "".join(expected.split())  # no word lost, doubled or changed
    read = pysubs2.SSAFile.from_string(text, format_=kind) if parsed else []
    assert [(event.start, event.end) for event in read] == [(start, end) for start, end, _ in parsed]


@pytest.mark.parametrize("language", TEXTS)
def test_texts_stay_as_they_are(language: str) -> None:
    text = TEXTS[language].replace("-->", "→")
    (_, _, lines), *others = strictly_parsed(srt(timed(TEXTS[language], step=0.3), FormatConfig()), "srt")
    shown = " ".join([*lines, *(line for _, _, following in others for line in following)])
    assert shown == (text if language != "zh" else text.replace(" ", ""))


def test_a_long_segment_is_divided_at_its_longest_pause() -> None:
    words = [Word(text=f"word{i}", start=float(i), end=i + 0.9) for i in range(8)]
    for word in words[5:]:
        assert word.start is not None and word.end is not None
        word.start, word.end = word.start + 0.5, word.end + 0.5
    shown = cues(transcript(words), FormatConfig(max_seconds=6.0), "srt")
    assert [" ".join(cue.lines) for cue in shown] == ["word0 word1 word2 word3 word4", "word5 word6 word7"]


def test_words_per_line_and_line_length() -> None:
    text = "one two three four five six seven"
    shown = cues(timed(text), FormatConfig(words_per_line=3), "srt")
    assert [cue.lines for cue in shown] == [("one two three",), ("four five six",), ("seven",)]
    shown = cues(timed(text), FormatConfig(line_columns=20), "srt")
    assert [cue.lines for cue in shown] == [("one two three four", "five six seven")]


def test_a_short_word_stays_until_the_next_one() -> None:
    words = [Word(text="a.", start=0.0, end=0.04), Word(text="b.", start=0.2, end=0.21)]
    shown = cues(transcript(words, seconds=9), FormatConfig(), "srt")
    assert [(cue.start_ms, cue.end_ms) for cue in shown] == [(0, 200), (200, 500)]


def test_columns_count_what_is_seen() -> None:
    assert columns("नमस्ते") < len("नमस्ते") and columns("北京") == 4 and columns("été") == 3


def test_without_times_the_error_names_other_formats() -> None:
    with pytest.raises(MayaError, match="srt needs times, and this decoding method gives none; choose"):
        srt(transcript([Word(text="a")]), FormatConfig())
