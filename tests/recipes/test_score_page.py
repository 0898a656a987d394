"""The page that `maya score` writes: audio and noise from prepared data, confidences from hyps.jsonl."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from maya.data.table.table import part_path, write_table
from maya.recipes.cli import main
from maya.recipes.evaluation.pages import read_details
from maya.recipes.score import score
from maya.score.measures.normalizers import normal_form
from tests.recipes.test_score import DECODING
from tests.score.twelve_scripts import details, utterances


def facts(path: Path) -> dict[str, Any]:
    match = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    assert match
    return dict(json.loads(match[1]))


@pytest.fixture
def decoded(tmp_path: Path) -> tuple[Path, Path]:
    """A run whose hypotheses have words with confidences, and its prepared data."""
    rows = utterances(24)
    by_id = details(rows, tmp_path / "audio", audio=4)
    entries = []
    for u in rows:
        entry, snr = by_id[u.id].audio, by_id[u.id].snr
        assert entry is not None
        entries.append(entry._replace(text=u.ref, language=u.language, speaker=u.speaker or "", snr=snr))
    (tmp_path / "data").mkdir()
    write_table(part_path(tmp_path / "data", "test"), entries)
    for name, seed in (("run", 0), ("other", 1)):
        folder = tmp_path / name / "decode" / "test"
        folder.mkdir(parents=True)
        (folder / "decode.json").write_text(json.dumps(DECODING))
        lines = []
        for u in utterances(24, seed):
            words = [{"text": w, "start": 0.0, "end": 1.0, "confidence": 0.5} for w in u.hyp.split()]
            row = {"id": u.id, "language": u.language, "ref": u.ref, "text": u.hyp, "words": words}
            lines.append(json.dumps(row | {"duration": u.seconds, "speaker": u.speaker}) + "\n")
        (folder / "hyps.jsonl").write_text("".join(lines))
    return tmp_path / "run", tmp_path / "data"


def test_score_writes_audio_noise_and_confidences(decoded: tuple[Path, Path]) -> None:
    run, data = decoded
    score(run, data=data, show=False)
    values = facts(run / "decode" / "test" / "report.html")
    assert all(link.startswith("../../../audio/tone%20") for link in values["audio"])
    assert len(values["clips"]) == 24 and all(snr is not None for snr in values["snr"])
    assert any(values["results"][0]["confidence"])
    score(run, data=None, show=False)  # other audio: the page is written again
    values = facts(run / "decode" / "test" / "report.html")
    assert values["audio"] is None and values["clips"] == [] and any(values["results"][0]["confidence"])


def test_data_that_cannot_be_read_leave_the_audio_out(decoded: tuple[Path, Path]) -> None:
    run, data = decoded
    part_path(data, "test").write_bytes(b"no table")
    by_id = read_details(run / "decode" / "test" / "hyps.jsonl", data, normal_form)
    assert by_id and all(d.audio is None and d.confidences for d in by_id.values())


def test_compare_writes_a_page(decoded: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, data = decoded
    (run / "environment.json").write_text(json.dumps({"data": str(data)}))
    page = run.parent / "pages" / "both.html"
    main(["compare", str(run), "--with", str(run.parent / "other"), "--html", str(page)])
    assert str(page) in capsys.readouterr().out
    values = facts(page)
    assert values["systems"] == ["run test", "other test"] and len(values["results"]) == 2
    assert all(link.startswith("../audio/tone%20") for link in values["audio"])


def test_files_of_other_tools_have_a_page(tmp_path: Path) -> None:
    (tmp_path / "ref.txt").write_text("a one two\nb three\n")
    (tmp_path / "hyp.txt").write_text("a one too\nb three\n")
    files = ["--ref", str(tmp_path / "ref.txt"), "--hyp", str(tmp_path / "hyp.txt"), "--language", "en"]
    main(["score", *files, "--html", str(tmp_path / "page.html")])
    values = facts(tmp_path / "page.html")
    assert values["id"] == ["a", "b"] and values["results"][0]["ops"] == ["=s", 0]
