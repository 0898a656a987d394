import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maya.data.corpus.manifest import PARTS
from maya.data.table.table import part_path
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import corpus_identity, prepare
from tests.data.making import write_corpus, write_manifest, write_tar, write_tone


def test_rewritten_tar_changes_the_corpus_identity(tmp_path: Path) -> None:
    """Cuts record the time of their tar. Without another run of the stage, training would refuse them."""
    write_corpus(tmp_path, per_speaker=1, speakers=2)
    plain = corpus_identity(tmp_path)
    tar = write_tar(tmp_path / "a.tar", {"x": b"1"})
    with_tar = corpus_identity(tmp_path)
    assert corpus_identity(tmp_path) == with_tar != plain
    os.utime(tar, (1, 1))
    assert corpus_identity(tmp_path) != with_tar


def test_every_descriptive_file_changes_the_corpus_identity(tmp_path: Path) -> None:
    """A new line in any of these files changes the identity. Another file does not."""
    for name, text in (("wav.scp", "a a.wav\n"), ("text", "a one\n"), ("utt2lang", "a en\n")):
        (tmp_path / name).write_text(text)
    identities = [corpus_identity(tmp_path)]
    (tmp_path / "notes").write_text("nothing that is read")
    assert corpus_identity(tmp_path) == identities[0]
    for name in ("wav.scp", "text", "utt2lang"):
        with (tmp_path / name).open("a") as file:
            file.write("b b\n")
        identities.append(corpus_identity(tmp_path))
    assert len(set(identities)) == 4


Change = Callable[[Path, Experiment], object]


def rewritten(path: Path, data: bytes, seconds: float = 1.0) -> None:
    """Write other bytes, with another time."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + int(seconds * 1e9)))


def truncated(corpus: Path, _: Experiment) -> None:
    audio = corpus / "en-001.wav"
    rewritten(audio, audio.read_bytes()[:2000])


def exchanged(corpus: Path, _: Experiment) -> None:
    """Same size, another time."""
    audio = corpus / "en-001.wav"
    rewritten(audio, audio.read_bytes()[:-2] + b"\1\0", 0.001)


def same_time(corpus: Path, _: Experiment) -> None:
    """Another size, the same time."""
    write_tone(corpus / "spare.wav", 0.7)
    rewritten(corpus / "en-001.wav", (corpus / "spare.wav").read_bytes(), 0.0)


def replaced_by_link(corpus: Path, _: Experiment) -> None:
    write_tone(corpus / "elsewhere.wav", 0.9)
    (corpus / "en-001.wav").unlink()
    (corpus / "en-001.wav").symlink_to(corpus / "elsewhere.wav")


def grown(corpus: Path, _: Experiment) -> None:
    write_tone(corpus / "more.wav", 0.8)
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write('{"id": "more", "language": "en", "text": "six", "audio": "more.wav"}\n')


def shrunk(corpus: Path, _: Experiment) -> None:
    lines = (corpus / "manifest.jsonl").read_text().splitlines(keepends=True)
    (corpus / "manifest.jsonl").write_text("".join(lines[1:]))


CHANGES: dict[str, Change] = {
    "audio truncated": truncated,
    "audio exchanged, same size": exchanged,
    "audio exchanged, same time": same_time,
    "audio replaced by a link": replaced_by_link,
    "audio removed": lambda corpus, _: (corpus / "en-001.wav").unlink(),
    "audio that was missing is there": lambda corpus, _: write_tone(corpus / "missing.wav", 0.8),
    "manifest grown": grown,
    "manifest shrunk": shrunk,
    "option changed": lambda _, exp: setattr(exp.prepare.probe, "max_seconds", 30.0),
    "languages changed": lambda _, exp: setattr(exp, "languages", ("en",)),
    "share changed": lambda _, exp: setattr(exp.prepare.split, "test", 0.2),
    "split anew": lambda _, exp: setattr(exp.prepare.split, "fresh", True),
    "table replaced": lambda corpus, _: shutil.copy(
        corpus.parent / "out/dev.parquet", corpus.parent / "out/test.parquet"
    ),
    "table damaged": lambda corpus, _: (corpus.parent / "out/dev.parquet").write_bytes(b"PAR1"),
    "report removed": lambda corpus, _: (corpus.parent / "out/report.html").unlink(),
    "list of files removed": lambda corpus, _: (corpus.parent / "out/audio_files.arrow").unlink(),
    "marker damaged": lambda corpus, _: (corpus.parent / "out/stage.json").write_text('{"digest": ['),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus c with one missing recording, and the data prepared from it, out."""
    top = tmp_path_factory.mktemp("prepared")
    rows = write_corpus(top / "c", per_speaker=3)
    write_manifest(top / "c", [*rows, rows[0] | {"id": "missing", "audio": "missing.wav"}])
    prepare(Experiment(name="test", languages=("en", "hi")), top / "c", top / "out")
    return top


@pytest.fixture
def top(prepared: Path, tmp_path: Path) -> Path:
    """A copy with its own paths and times."""
    for name in ("c", "out", "out.probed"):
        shutil.copytree(prepared / name, tmp_path / name)
    prepare(Experiment(name="test", languages=("en", "hi")), tmp_path / "c", tmp_path / "out")
    return tmp_path


@pytest.mark.parametrize("kind", CHANGES)
def test_every_input_makes_the_stage_run_again(
    top: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    experiment = Experiment(name="test", languages=("en", "hi"))
    prepare(experiment, top / "c", top / "out")
    assert "up to date" in capsys.readouterr().out
    CHANGES[kind](top / "c", experiment)
    prepare(experiment, top / "c", top / "out")
    out = capsys.readouterr().out
    assert "up to date" not in out
    if kind.startswith("audio"):
        assert "prepare: audio changed since" in out
    if kind != "split anew":  # the option must be given each time
        prepare(experiment, top / "c", top / "out")
        assert "up to date" in capsys.readouterr().out


def test_another_version_of_maya_runs_the_stage_again(
    top: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    monkeypatch.setattr("maya.recipes.markers.__version__", "99.0")
    prepare(Experiment(name="test", languages=("en", "hi")), top / "c", top / "out")
    assert "up to date" not in capsys.readouterr().out


def test_damaged_file_is_dropped_and_named(top: Path) -> None:
    """A dev recording is truncated between two runs of the stage."""
    truncated(top / "c", Experiment(name="test"))
    (top / "c/en-001.wav").write_bytes(b"RIFF")
    prepare(Experiment(name="test", languages=("en", "hi")), top / "c", top / "out")
    assert '"id": "en-001"' in (top / "out/dropped.jsonl").read_text()


def test_refused_corpus_keeps_the_marker(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(name="test", languages=("en", "hi"))
    rows = write_corpus(top / "deep" / "c", per_speaker=2)
    write_manifest(top / "deep" / "c", [row | {"id": f"b{row['id']}"} for row in rows])
    for force in (False, True):
        with pytest.raises(MayaError, match="deep/c is another corpus"):
            prepare(experiment, top / "deep" / "c", top / "out", force=force)
    capsys.readouterr()
    prepare(experiment, top / "c", top / "out")
    assert "up to date" in capsys.readouterr().out


def test_force_keeps_the_split(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [part_path(top / "out", part).read_bytes() for part in PARTS]
    prepare(Experiment(name="test", languages=("en", "hi")), top / "c", top / "out", force=True)
    assert "the earlier split of 30 utterances is kept" in capsys.readouterr().out
    assert [part_path(top / "out", part).read_bytes() for part in PARTS] == tables


def test_linked_texts_and_audio_change_the_corpus_identity(tmp_path: Path) -> None:
    for number in range(3):
        write_tone(tmp_path / f"store/{number}.wav", 0.5)
        (tmp_path / f"store/{number}.txt").write_text("one two")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/en").symlink_to(tmp_path / "store")
    (tmp_path / "store/circle").symlink_to(tmp_path / "c")
    first = corpus_identity(tmp_path / "c")
    assert corpus_identity(tmp_path / "c") == first
    (tmp_path / "store/1.txt").write_text("three")
    second = corpus_identity(tmp_path / "c")
    (tmp_path / "store/3.txt").write_text("a new one")
    assert len({first, second, corpus_identity(tmp_path / "c")}) == 3
