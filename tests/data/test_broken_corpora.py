"""Corpora as people have them, broken in one place: one sentence names file and line, or the utterance is
dropped for a reason. Nothing is lost in silence."""

import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus, prepare_part
from maya.data.prepare.run_shards import require_all
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest

Rows = list[dict[str, Any]]
BOM = "\ufeff"


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Of ten utterances, en-000 to hi-004."""
    return write_corpus(tmp_path, per_speaker=1)


def lines(values: Rows) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def table(folder: Path, rows: Rows, separator: str = ",") -> str:
    """The text of a metadata.csv of these rows; their manifest goes."""
    (folder / "manifest.jsonl").unlink()
    cells = [["file_name", "text", "language"], *([r["audio"], r["text"], r["language"]] for r in rows)]
    return "".join(separator.join(some) + "\n" for some in cells)


def kaldi(folder: Path, rows: Rows) -> dict[str, str]:
    (folder / "manifest.jsonl").unlink()
    names = {"wav.scp": "audio", "text": "text", "utt2lang": "language"}
    return {file: "".join(f"{r['id']} {r[name]}\n" for r in rows) for file, name in names.items()}


def lhotse(folder: Path, rows: Rows, recording: Any = None, supervision: Any = None) -> None:
    """With the fields of one recording, the third, and of its supervision changed."""
    (folder / "manifest.jsonl").unlink()
    recordings = [
        {"id": r["id"], "sources": [{"type": "file", "channels": [0], "source": r["audio"]}], "duration": 0.4}
        for r in rows
    ]
    supervisions = [
        {"id": r["id"], "recording_id": r["id"], "start": 0.0, "duration": 0.4, "text": r["text"],
         "language": r["language"]} for r in rows
    ]  # fmt: skip
    recordings[2] |= recording or {}
    supervisions[2] |= supervision or {}
    for name, some in (("recordings", recordings), ("supervisions", supervisions)):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(some).encode()))


def dropped(folder: Path) -> dict[str, str]:
    """By id, why utterances are dropped; every row is kept or dropped."""
    read, problems = read_corpus(folder)
    kept, bad = probe(folder, read, ProbeConfig(num_workers=1))
    assert len(kept) + len(bad) == len(read)
    assert all(p.where.startswith(str(folder)) and p.where[-1].isdigit() for p in [*bad, *problems])
    return {p.id: f"{p.reason}: {p.detail}" for p in [*problems, *bad]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", BOM])
def test_marks_and_line_ends_change_nothing(tmp_path: Path, rows: Rows, mark: str, end: str) -> None:
    def texts(read: list[Row]) -> list[str]:
        return [row.text for row in read]

    wanted = [row["text"] for row in rows]
    write(tmp_path / "manifest.jsonl", mark + lines(rows).replace("\n", end))
    assert texts(read_corpus(tmp_path)[0]) == wanted
    write(tmp_path / "manifest.jsonl", lines(rows[:4]) + mark + lines(rows[4:]))  # joined files
    assert texts(read_corpus(tmp_path)[0]) == wanted
    write(tmp_path / "metadata.csv", mark + table(tmp_path, rows).replace("\n", end))
    assert texts(read_corpus(tmp_path)[0]) == wanted
    (tmp_path / "metadata.csv").unlink()
    write_manifest(tmp_path, rows)
    for name, text in kaldi(tmp_path, rows).items():
        write(tmp_path / name, mark + text.replace("\n", end).replace(" ", "\t", 1))
    assert texts(read_corpus(tmp_path)[0]) == wanted


def test_names_with_blanks_and_other_letters(tmp_path: Path, rows: Rows) -> None:
    names = ["with blank.wav", "नमस्ते दुनिया.wav", "a'b\"c.wav", "per%20cent.wav", " first.wav", "x\u2028y.wav"]
    (tmp_path / "my audio ü").mkdir()
    for row, name in zip(rows, names, strict=False):
        (tmp_path / row["audio"]).rename(tmp_path / "my audio ü" / name)
        row["audio"] = f"my audio ü/{name}"
    write_manifest(tmp_path, rows)
    assert not dropped(tmp_path)
    rows = [row for row in rows if '"' not in row["audio"]]
    write(tmp_path / "metadata.csv", table(tmp_path, rows))
    assert not dropped(tmp_path)


def test_long_texts_and_tabs_in_texts(tmp_path: Path, rows: Rows) -> None:
    rows[1]["text"], rows[2]["text"] = "one\ttwo", "one " * 25_000
    write_manifest(tmp_path, rows)
    assert dropped(tmp_path) == {"en-002": "text_too_long: 99999 characters in 0.50 s, over 40 a second"}
    rows[1]["text"] = "one"
    write(tmp_path / "metadata.csv", table(tmp_path, rows))
    assert [*dropped(tmp_path)] == ["en-002"]
    write_manifest(tmp_path, rows)
    rows[3]["text"] = "a\tb"
    write(tmp_path / "metadata.csv", table(tmp_path, rows, "\t"))
    with pytest.raises(MayaError, match=r"metadata.csv:5: 4 cells where the header has 3$"):
        read_corpus(tmp_path)


Break = Callable[[Path, Rows], object]


def edited(number: int, **values: Any) -> Break:
    """A manifest with other values in a row."""

    def edit(folder: Path, rows: Rows) -> None:
        rows[number] |= values
        write_manifest(folder, [{k: v for k, v in row.items() if v is not None} for row in rows])

    return edit


def nemo(**values: Any) -> Break:
    def edit(folder: Path, rows: Rows) -> None:
        (folder / "manifest.jsonl").unlink()
        some = [{"audio_filepath": r["audio"], "text": r["text"], "lang": r["language"]} for r in rows]
        some[2] |= values
        write(folder / "train.json", lines(some))

    return edit


def csv(change: Callable[[str], str]) -> Break:
    return lambda folder, rows: write(folder / "metadata.csv", change(table(folder, rows)))


def cut_gz(name: str) -> Break:
    def edit(folder: Path, rows: Rows) -> None:
        lhotse(folder, rows)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return edit


def kaldi_with(name: str, text: str) -> Break:
    def edit(folder: Path, rows: Rows) -> None:
        files = kaldi(folder, rows)
        files[name] = files.get(name, "") + text
        for file, content in files.items():
            write(folder / file, content)

    return edit


def metadata_jsonl(folder: Path, rows: Rows) -> None:
    """The third line names no audio."""
    (folder / "manifest.jsonl").unlink()
    write(
        folder / "metadata.jsonl",
        lines([row | {"audio": row["audio"] if n != 2 else None} for n, row in enumerate(rows)]),
    )


NAN = float("nan")
REFUSED: dict[str, tuple[Break, str]] = {
    "id twice": (edited(5, id="en-002"), r"manifest.jsonl:6: the id 'en-002' occurs in line 3 already"),
    "no text": (edited(3, text=None), r"manifest.jsonl:4: the field 'text' is missing"),
    "no audio": (edited(3, audio=None), r"manifest.jsonl:4: the field 'audio' is missing"),
    "duration NaN": (edited(1, duration=NAN), r"manifest.jsonl:2: .*'duration' must be seconds .*, not nan"),
    "duration inf": (edited(1, duration=float("inf")), r"manifest.jsonl:2: the field 'duration' must be"),
    "bytes before": (edited(1, tar="a", offset=-1, size=1), r":2: the field 'offset' must be .* from 0"),
    "NeMo NaN": (nemo(duration=NAN), r"train.json:3: the field 'duration' must be seconds above zero"),
    "NeMo offset NaN": (nemo(offset=NAN, duration=1.0), r"train.json:3: the field 'offset' must be seconds"),
    "NeMo offset before": (nemo(offset=-1.0, duration=1.0), r"train.json:3: .*'offset' must be .*, not -1.0"),
    "no column": (csv(lambda t: t.replace("text", "words")), r"metadata.csv:1: no column holds the text"),
    "no cell": (
        csv(lambda t: t.replace(",en\n", "\n", 1)),
        r"metadata.csv:2: 2 cells where .* has 3",
    ),
    "old Mac": (csv(lambda t: t.replace("\n", "\r")), r"metadata.csv:1: a carriage return lies inside"),
    "id twice, CSV": (csv(lambda t: t + t.splitlines()[1] + "\n"), r":12: the id 'en-000' occurs in line 2"),
    "no file name": (metadata_jsonl, r"metadata.jsonl:3: no field holds the path of the audio as text; name"),
    "gz cut": (cut_gz("supervisions.jsonl.gz"), r"supervisions.jsonl.gz is not a sound gzip file"),
    "other gz cut": (cut_gz("recordings.jsonl.gz"), r"recordings.jsonl.gz is not a sound gzip file"),
    "lhotse start NaN": (lambda f, r: lhotse(f, r, {}, {"start": NAN}), r"supervisions.*:3: .*'start' must"),
    "lhotse recording NaN": (
        lambda f, r: lhotse(f, r, {"duration": NAN}),
        r":3: line 3 of recordings.jsonl.gz, its recording: the field 'duration' must be seconds, not nan",
    ),
    "Kaldi twice": (kaldi_with("text", "en-003 one\n"), r"text:11: 'en-003' occurs in line 4 already"),
    "Kaldi NaN": (kaldi_with("segments", "en-000 en-000 0 nan\n"), r"segments:1: it must read UTTERANCE"),
    "Kaldi recording": (
        kaldi_with("segments", "en-000 x 0 1\n"),
        r"segments:1: wav.scp has no recording",
    ),
    "Kaldi no path": (kaldi_with("wav.scp", "x\n"), r"wav.scp:11: nothing follows 'x'; complete or remove"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_broken_is_named(tmp_path: Path, rows: Rows, name: str) -> None:
    breaks, message = REFUSED[name]
    breaks(tmp_path, rows)
    with pytest.raises(MayaError, match=message) as error:
        read_corpus(tmp_path)
    assert "\n" not in str(error.value)


def test_a_line_before_the_cut_is_named(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "manifest.jsonl").unlink()
    many = [{"audio_filepath": f"{n}.wav", "text": os.urandom(8).hex(), "lang": "en"} for n in range(20_000)]
    data = gzip.compress(lines(many).encode())
    (tmp_path / "cuts.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(MayaError, match=r"cuts.jsonl.gz is not a sound gzip file after line [1-9]\d+ \("):
        read_corpus(tmp_path)


def test_single_utterances_are_dropped_for_a_reason(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / rows[0]["audio"]).write_bytes(b"")
    (tmp_path / rows[1]["audio"]).unlink()
    for number in (2, 3):
        (tmp_path / rows[number]["audio"]).unlink()
    (tmp_path / rows[2]["audio"]).symlink_to(tmp_path / rows[2]["audio"])
    (tmp_path / rows[3]["audio"]).mkdir()
    reasons = dropped(tmp_path)
    assert [*reasons] == ["en-000", "en-001", "en-002", "en-003"]
    assert "it has no bytes" in reasons["en-000"] and "there is no file" in reasons["en-001"]
    assert "leads to itself" in reasons["en-002"] and "is not a file" in reasons["en-003"]


def test_a_closed_folder_is_named(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = os.stat, str(tmp_path / rows[0]["audio"])

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os.path, "isfile", lambda path: str(path) != closed and Path(path).exists())
    assert dropped(tmp_path) == {"en-000": f"missing_audio: no permission to look at {closed}"}


@pytest.mark.parametrize(("offset", "duration", "kept"), [(100.0, 1.0, 9), (0.2, 50.0, 9), (0.1, 0.35, 10)])
def test_places_beyond_the_end(tmp_path: Path, rows: Rows, offset: float, duration: float, kept: int) -> None:
    nemo(offset=offset, duration=duration)(tmp_path, rows)
    reasons = dropped(tmp_path)
    assert len(reasons) == 10 - kept
    assert all(f"the manifest says it goes from {offset:g} s to" in reason for reason in reasons.values())
    (tmp_path / "train.json").unlink()
    write_manifest(tmp_path, rows)
    lhotse(tmp_path, rows, {}, {"start": -5.0 if kept < 10 else 0.0})
    assert len(dropped(tmp_path)) == 10 - kept


@pytest.mark.parametrize(("field", "value"), [("offset", 1 << 40), ("size", 1 << 40), ("size", 1 << 30)])
def test_bytes_beyond_the_end_of_a_tar(tmp_path: Path, rows: Rows, field: str, value: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for row in rows:
            tar.add(tmp_path / row["audio"], row["audio"])
    with tarfile.open(tmp_path / "a.tar") as tar:
        for row, member in zip(rows, tar.getmembers(), strict=True):
            row |= {"tar": "a.tar", "offset": member.offset_data, "size": member.size}
    rows[1][field] = value
    write_manifest(tmp_path, rows)
    assert [reason.split(":")[0] for reason in dropped(tmp_path).values()] == ["tar_mismatch"]


def test_a_file_that_vanishes_between_shards(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=2)
    cfg = PrepareConfig(shard_rows=5, max_dropped_fraction=0.5)
    cfg.probe.num_workers = 1
    prepare_part(tmp_path / "c", tmp_path / "out", languages=("en", "hi"), cfg=cfg, part=1, of=1)
    (tmp_path / "c" / rows[7]["audio"]).unlink()

    def merge(**options: Any) -> Any:
        return prepare_corpus(tmp_path / "c", tmp_path / "out", languages=("en", "hi"), cfg=cfg, **options)

    with pytest.raises(MayaError, match=r"en-007.wav changed since shard 1 was prepared; run the part"):
        merge(runner=require_all)
    assert merge().dropped == {"missing_audio": 1}
