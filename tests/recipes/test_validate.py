import io
import json
import tarfile
from pathlib import Path
from typing import Any

import lhotse
import pytest
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from maya.recipes import cli
from tests.data.making import WORDS, write_corpus, write_manifest, write_tone


def maya(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 utterances, one of them without audio and one with a digit."""
    rows = write_corpus(tmp_path / "c")
    (tmp_path / "c" / rows[3]["audio"]).unlink()
    rows[5]["text"] = "one 2"
    write_manifest(tmp_path / "c", rows)
    return tmp_path / "c"


def test_corpus_is_checked_without_writing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings, page = tmp_path / "found.json", tmp_path / "page.html"
    assert maya("validate", "--corpus", corpus, "--json", findings, "--html", page) == 0
    said = capsys.readouterr().out
    assert "dropped 1 missing_audio (no such file)" in said and "  en 1\n" in said
    assert "flagged 1 digits" in said and "40 utterances: OK" in said
    result = json.loads(findings.read_text())
    assert result["refusal"] is None and result["utterances"] == 40
    assert [finding["reason"] for finding in result["findings"]][0] == "missing_audio"
    assert "missing_audio" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "found.json", "page.html"]


def test_refused_corpus_is_reported_with_the_reason(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = tmp_path / "found.json"
    options = ("--set", "prepare.max_dropped_fraction=0.01", "--json", findings)
    assert maya("validate", "--corpus", corpus, *options) == 1
    said = capsys.readouterr()
    assert "dropped 1 missing_audio" in said.out and "utterances: OK" not in said.out
    assert "1 of 40 utterances are unusable, more than max_dropped_fraction=0.01" in said.err
    assert "max_dropped_fraction" in json.loads(findings.read_text())["refusal"]
    for path in corpus.glob("hi-*.wav"):
        path.unlink()
    assert maya("validate", "--corpus", corpus) == 1
    assert "all 20 utterances of 'hi' are unusable, 20 missing_audio" in capsys.readouterr().err


def test_prepared_data_are_checked_again(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    assert maya("prepare", "--experiment", "egs.indic12.mini", "--corpus", corpus, "--out", out) == 0
    capsys.readouterr()
    assert maya("validate", "--data", out, "--html", page) == 0
    assert "no problems found\n39 utterances: OK" in capsys.readouterr().out
    assert "Data out" in page.read_text() and "missing_audio" in page.read_text()
    (corpus / "hi-004.wav").unlink()
    assert maya("validate", "--data", out, "--sample", 0, "--html", page) == 1
    said = capsys.readouterr()
    assert "broken 1 missing_file" in said.out and "'hi-004'" in said.err
    assert "missing_file" in page.read_text()


def test_corpus_or_data_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        maya("validate")
    assert "missing --corpus or --data" in capsys.readouterr().err


@pytest.fixture
def named_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """30 utterances for a lhotse recipe, and as two tars with NeMo manifests."""
    rows = [(f"u{i}", f"{WORDS['en'][i % 6]} {WORDS['en'][i // 6]}", 200 + 10 * i) for i in range(30)]
    for name, _, pitch in rows:
        write_tone(tmp_path / "wavs" / f"{name}.wav", 1.0, pitch=pitch)

    def prepare_tones(corpus_dir: Path, output_dir: Path | None = None) -> dict[str, Any]:
        recordings = [Recording.from_file(corpus_dir / f"{name}.wav", name) for name, _, _ in rows]
        said = [
            SupervisionSegment(name, name, 0.0, 1.0, text=text, language="English", speaker=f"s{i % 6}")
            for i, (name, text, _) in enumerate(rows)
        ]
        return {
            "all": {
                "recordings": RecordingSet.from_recordings(recordings),
                "supervisions": SupervisionSet.from_segments(said),
            }
        }

    monkeypatch.setattr(lhotse.recipes, "prepare_tones", prepare_tones, raising=False)
    for shard in range(2):
        lines = []
        with tarfile.open(tmp_path / f"audio_{shard}.tar", "w") as tar:
            for i, (name, text, _) in enumerate(rows[shard::2]):
                data = (tmp_path / "wavs" / f"{name}.wav").read_bytes()
                member = tarfile.TarInfo(f"{name}.wav")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                line = {"audio_filepath": f"{name}.wav", "text": text, "duration": 1.0, "lang": "en"}
                lines.append(json.dumps(line | {"shard_id": shard, "speaker": f"s{i % 5}-{shard}"}))
        (tmp_path / f"manifest_{shard}.json").write_text("\n".join(lines) + "\n")
    return {
        "lhotse": f"lhotse:tones:{tmp_path / 'wavs'}",
        "nemo": f"nemo:{tmp_path}/manifest_{{0..1}}.json:{tmp_path}/audio__OP_0..1_CL_.tar",
    }


@pytest.mark.parametrize("kind", ["lhotse", "nemo"])
def test_named_corpora(
    kind: str, named_corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = named_corpora[kind]
    before = sorted(tmp_path.iterdir())
    assert maya("validate", "--corpus", corpus, "--html", tmp_path / "page.html") == 0
    assert "30 utterances: OK" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "page.html"])
    assert (
        maya("prepare", "--experiment", "egs.indic12.mini", "--corpus", corpus, "--out", tmp_path / "d") == 0
    )


@pytest.mark.parametrize(
    ("corpus", "sentence"),
    [
        ("lhotse:tones", "the corpus 'lhotse:tones' must read lhotse:NAME:DIR"),
        ("lhotse:no_such:{folder}", "lhotse has no recipe 'no_such'"),
        ("nemo:a.json", "the corpus 'nemo:a.json' must read nemo:MANIFESTS:TARS"),
        ("nemo:a.json:b.tar", "there is no file"),
        ("lhots:tones:x", "lhots:tones:x is not a folder; give --corpus a folder"),
        ("nowhere", "nowhere is not a folder; give --corpus a folder"),
    ],
)
def test_prepare_and_validate_refuse_the_same_corpora(
    corpus: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaints = []
    for command in (["validate"], ["prepare", "--out", tmp_path / "d", "--experiment", "egs.indic12.mini"]):
        assert maya(*command, "--corpus", corpus.format(folder=tmp_path)) == 1
        complaints.append(capsys.readouterr().err.split(": ", 1)[1])
    assert sentence in complaints[0] and complaints[0] == complaints[1]
