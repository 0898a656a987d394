"""`maya score` and `maya compare` on the files that decoding writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.compare import compare
from maya.recipes.score import read_hypotheses, score, score_all

DECODING = {
    "checkpoint": "c.pt",
    "utterances": 2,
    "seconds": 1.0,
    "audio_seconds": 2.0,
    "real_time_factor": 0.5,
}
ROW = {"language": "en", "speaker": "s", "duration": 1.0, "ref": "a b"}
TEXTS = [{"id": f"u{i}", "text": "a b", **ROW} for i in range(2)]
LABELLED = [
    {
        "id": f"u{i}", **ROW, "labels": {"mood": mood},
        "predictions": {"mood": {"label": "glad", "probability": 0.9}},
    }
    for i, mood in enumerate(("glad", "glad", "glad", "sad"))
]  # fmt: skip


def _decoded(run: Path, place: str, rows: Sequence[dict[str, Any]]) -> Path:
    folder = run / "decode" / place
    folder.mkdir(parents=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "hyps.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "decode.json").write_text(json.dumps(DECODING))
    return folder


def test_the_table_of_all_has_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a text head has a table of accuracies, and no empty table of WER."""
    _decoded(tmp_path / "labels", "dev", LABELLED)
    text = score_all(tmp_path / "labels")
    head, _, row = text.splitlines()
    assert head == "| method | set | label | utterances | accuracy % |"
    assert row.startswith("| as configured | dev | mood | 4 | 50.00 - |")  # sad has one utterance
    assert "WER" not in capsys.readouterr().out
    _decoded(tmp_path / "both", "ctc/test", [row | {"text": "a c"} for row in LABELLED])
    both = score_all(tmp_path / "both")
    assert "| ctc | 50.00 [" in both and "| ctc | test | mood | 4 | 50.00 - |" in both
    assert (tmp_path / "both" / "decode" / "wer.md").read_text() == both
    _decoded(tmp_path / "texts", "test", TEXTS)
    assert "accuracy" not in score_all(tmp_path / "texts")


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x1c", "\x0c"])
def test_other_ends_of_lines_inside_a_row(end: str, tmp_path: Path) -> None:
    row = TEXTS[0] | {"speaker": f"a{end}b"}
    folder = _decoded(tmp_path, "test", [row, TEXTS[1]])
    assert [u.speaker for u in read_hypotheses(folder / "hyps.jsonl")] == [f"a{end}b", "s"]


@pytest.mark.parametrize("line", ["5", "[]", "null", '{"id": "u"}', '{"id": "u", "text'])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    folder = _decoded(tmp_path, "test", TEXTS)
    with (folder / "hyps.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(MayaError, match=r"hyps.jsonl, line 3, is not a hypothesis"):
        score(tmp_path)


def test_incomplete_decoding_is_refused(tmp_path: Path) -> None:
    folder = _decoded(tmp_path, "test", TEXTS)
    (folder / "decode.json").unlink()
    with pytest.raises(MayaError, match=r"decode.json is missing; run stage 5 \(decode\) again"):
        score(tmp_path)
    (folder / "hyps.jsonl").write_text("")
    with pytest.raises(MayaError, match="neither texts nor labels"):
        score(tmp_path)


def test_systems_without_texts_cannot_be_compared(tmp_path: Path) -> None:
    _decoded(tmp_path / "labels", "test", LABELLED)
    _decoded(tmp_path / "texts", "test", TEXTS)
    for first, second in (("labels", "texts"), ("texts", "labels")):
        with pytest.raises(MayaError, match="labels/decode/test/hyps.jsonl holds no texts to compare"):
            compare([tmp_path / first], [tmp_path / second])


def test_measures_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's scores are followed by the lenient score; measures.json has all of them."""
    rows = [row | {"snr": 12.0 + i, "text": "a b" if i else "a c"} for i, row in enumerate(TEXTS)]
    folder = _decoded(tmp_path, "test", rows)
    (tmp_path / "hot.txt").write_text("b\n")
    assert main(["score", str(tmp_path), "--groups", "--hot-words", str(tmp_path / "hot.txt")]) == 0
    out = capsys.readouterr().out
    assert "lenient WER" in out and "10 to 15 dB" in out and "hot words: recall 50.00 %" in out
    measures = json.loads((folder / "measures.json").read_text())
    assert measures["languages"]["en"]["lenient_wer"] == 0.25
    assert measures["groups"]["snr"][0]["wer"] == 0.25
    assert main(["score", str(tmp_path), "--rare-below", "3"]) == 1
    assert "--training-texts" in capsys.readouterr().err
    assert main(["score", str(tmp_path), "--split", "all", "--normalizer", "none"]) == 1


def test_matched_pairs_beside_the_bootstrap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**ROW, "id": f"u{i}", "ref": "a b c d", "text": "a x c d"} for i in range(8)]
    _decoded(tmp_path / "one", "test", rows)
    _decoded(tmp_path / "two", "test", [row | {"text": "a b c d"} for row in rows[:7]] + rows[7:])
    text = compare([tmp_path / "one"], [tmp_path / "two"])
    assert "matched pairs (MAPSSWE): -0.875 errors in each of 8 segments, z = -7.00" in text
    assert "under 50 segments" in text
