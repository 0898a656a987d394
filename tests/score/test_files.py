"""Transcripts of every format read alike, and references meet their hypotheses."""

import json
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.score.files.objects import holds_both
from maya.score.files.pairing import PairingOptions, pair_transcripts
from maya.score.files.transcripts import format_of, read_transcripts

TEXTS = {"u1": "the cat sat", "u2": "", "u3": "हिन्दी में"}


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _same(text: str, language: str) -> str:
    return text


def _every_format(folder: Path) -> list[Path]:
    """TEXTS in each format that names utterances."""
    rows = [{"id": k, "text": v} for k, v in TEXTS.items()]
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    both = [{"id": k, "text": v, "ref": "x"} for k, v in TEXTS.items()]
    scored = [{"id": k, "hyp": v, "ref": v} for k, v in TEXTS.items()]
    return [
        _write(folder / "text", "".join(f"{k} {v}\n" for k, v in TEXTS.items())),
        _write(folder / "a.trn", ";; made by hand\n" + "".join(f"{v} ({k})\n" for k, v in TEXTS.items())),
        _write(folder / "a.jsonl", lines),
        _write(folder / "a.json", json.dumps(rows, indent=1)),
        _write(folder / "out.json", json.dumps({"utterances": scored})),
        _write(folder / "hyps.jsonl", "".join(json.dumps(row) + "\n" for row in both)),
        _write(folder / "nameless", lines),
    ]  # fmt: skip


def test_formats_with_ids(tmp_path: Path) -> None:
    files = _every_format(tmp_path)
    assert [format_of(f) for f in files] == ["kaldi", "trn", "json", "json", "json", "json", "json"]
    for file in files:
        assert {t.id: t.text for t in read_transcripts(file, "hyp")} == TEXTS, file.name


def test_sides_of_rows_that_hold_both(tmp_path: Path) -> None:
    nemo = {
        "audio_filepath": "/a/1.wav",
        "text": "the cat",
        "pred_text": "a cat",
        "duration": 2.0,
        "lang": "en",
    }
    path = _write(tmp_path / "m.json", json.dumps(nemo) + "\n")
    (ref,), (hyp,) = read_transcripts(path, "ref"), read_transcripts(path, "hyp")
    assert (ref.text, hyp.text, ref.seconds, ref.language) == ("the cat", "a cat", 2.0, "en")
    assert holds_both(path)
    ours = {"id": "u", "ref": "the cat", "text": "a cat", "duration": 2.0, "snr": 12.5, "language": "en"}
    path = _write(tmp_path / "hyps.jsonl", json.dumps(ours) + "\n")
    (ref,), (hyp,) = read_transcripts(path, "ref"), read_transcripts(path, "hyp")
    assert (ref.text, hyp.text, hyp.snr) == ("the cat", "a cat", 12.5) and holds_both(path)
    # A manifest of references must not be scored against itself.
    del nemo["pred_text"]
    path = _write(tmp_path / "refs.json", json.dumps(nemo) + "\n")
    assert not holds_both(path)
    with pytest.raises(MayaError, match="no pred_text"):
        read_transcripts(path, "hyp")


def test_ctm_stm_and_rttm(tmp_path: Path) -> None:
    ctm = _write(
        tmp_path / "h.ctm",
        ";; x\nr1 1 1.0 0.5 cat 0.9\nr1 1 0.2 0.3 the\nr1 1 5.0 0.5 sat 0.5\nr2 A 0 1 yes NA\n",
    )
    first, second = read_transcripts(ctm, "hyp")
    assert (first.recording, first.channel, first.text, first.end) == ("r1", "1", "the cat sat", 5.5)
    assert [w.confidence for w in first.words] == [None, 0.9, 0.5] and second.text == "yes"
    stm = _write(
        tmp_path / "r.stm",
        "r1 1 ann 0.0 2.0 <o,f0,female> the cat\nr1 1 bob 2.0 3.0 ignore_time_segment_in_scoring\n"
        "r1 1 bob 4.0 6.0 sat down\nr2 A bob 0 1\n",
    )
    rows = read_transcripts(stm, "ref")
    assert [(r.text, r.speaker, r.ignored) for r in rows] == [
        ("the cat", "ann", False), ("", "bob", True), ("sat down", "bob", False), ("", "bob", False),
    ]  # fmt: skip
    pairs = pair_transcripts(rows, [first, second], _same, PairingOptions(language="en"))
    assert [(u.ref, u.hyp, u.speaker) for u in pairs] == [
        ("the cat", "the cat", "ann"), ("sat down", "sat", "bob"), ("", "yes", "bob"),
    ]  # fmt: skip
    rttm = _write(
        tmp_path / "a.rttm",
        "SPKR-INFO r1 1 <NA> <NA> <NA> unknown ann <NA> <NA>\nSPEAKER r1 1 0.5 1.5 <NA> <NA> ann <NA> <NA>\n",
    )
    (turn,) = read_transcripts(rttm, "ref")
    assert (turn.speaker, turn.start, turn.end) == ("ann", 0.5, 2.0)


def test_words_of_an_ignored_segment_do_not_count(tmp_path: Path) -> None:
    refs = read_transcripts(
        _write(tmp_path / "r.stm", "r 1 a 0 2 hello\nr 1 a 2 4 IGNORE_TIME_SEGMENT_IN_SCORING\n"), "ref"
    )
    hyps = read_transcripts(_write(tmp_path / "h.ctm", "r 1 0.5 1 hello\nr 1 2.5 1 noise\n"), "hyp")
    (pair,) = pair_transcripts(refs, hyps, _same, PairingOptions())
    assert pair.hyp == "hello"


def test_recordings_as_a_whole(tmp_path: Path) -> None:
    """STM on both sides: what was said in a recording, by time."""
    refs = read_transcripts(_write(tmp_path / "r.stm", "r 1 b 2 4 c d\nr 1 a 0 2 a b\n"), "ref")
    hyps = read_transcripts(_write(tmp_path / "h.stm", "r 1 x 0 4 a b c\n"), "hyp")
    (pair,) = pair_transcripts(refs, hyps, _same, PairingOptions())
    assert (pair.id, pair.ref, pair.hyp) == ("r 1", "a b c d", "a b c")


def test_seglst(tmp_path: Path) -> None:
    rows = [{"session_id": "s", "speaker": "A", "start_time": "1.5", "end_time": 2, "words": "hello there"}]
    (row,) = read_transcripts(_write(tmp_path / "s.json", json.dumps(rows)), "ref")
    assert (row.recording, row.speaker, row.start, row.end, row.text) == ("s", "A", 1.5, 2.0, "hello there")


def test_ids_must_agree(tmp_path: Path) -> None:
    refs = read_transcripts(_write(tmp_path / "ref.txt", "a one two\nb three\n"), "ref")
    hyps = read_transcripts(_write(tmp_path / "hyp.txt", "a one\n"), "hyp")
    with pytest.raises(MayaError, match="1 of 2 references have no hypothesis, the first is 'b'"):
        pair_transcripts(refs, hyps, _same, PairingOptions())
    pairs = pair_transcripts(refs, hyps, _same, PairingOptions(missing_as_empty=True))
    assert [(u.ref, u.hyp) for u in pairs] == [("one two", "one"), ("three", "")]
    with pytest.raises(MayaError, match="have no reference"):
        pair_transcripts(hyps, refs, _same, PairingOptions())
    with pytest.raises(MayaError, match="'a' twice"):
        pair_transcripts([refs[0], refs[0]], hyps, _same, PairingOptions())
    stm = read_transcripts(_write(tmp_path / "r.stm", "r 1 a 0 2 hello\n"), "ref")
    with pytest.raises(MayaError, match="formats of one kind"):
        pair_transcripts(stm, hyps, _same, PairingOptions())


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.trn", "no id here\n", "a.trn:1: no utterance id"),
        ("a.trn", "{ a / b } c (u1)\n", "alternatives"),
        ("a.ctm", "r 1 0.0 word\n", "5 or 6 fields"),
        ("a.ctm", "r 1 zero 1 word\n", "'zero' is not a number"),
        ("a.ctm", "r 1 -1 1 word\n", "not a time"),
        ("a.stm", "r 1 a 0\n", "at least 5 fields"),
        ("a.rttm", "SPEAKER r 1 0\n", "at least 8 fields"),
        ("a.json", '{"id": "a"}\n', "has no text"),
        ("a.json", '{"text": "a"}\n', "has no id"),
        ("a.json", "[1, 2]", "neither JSON lines nor a list"),
        ("a.jsonl", '{"id": "a", "text": "b"}\n{"id"\n', "a.jsonl:2"),
        ("a.json", '{"id": "a", "text": "b", "duration": "long"}\n', "duration must be a number"),
        ("text", "", "holds no transcripts"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(MayaError, match=complaint):
        read_transcripts(_write(tmp_path / name, text), "ref")
