"""Write a corpus folder: a tar for each language, `manifest.jsonl`, and the checksums in `corpus.json`.

The folder is written under a temporary name and renamed at the end, so it is never incomplete. The same
utterances give the same bytes (tar headers have no time and no owner).
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import socket
import sys
import tarfile
import time
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maya.errors import MayaError
from maya.files import file_sha256, json_sha256, sha256

T = TypeVar("T")
SAMPLE_RATE = 16000
SEAL = "corpus.json"
MANIFEST = "manifest.jsonl"


@dataclasses.dataclass(kw_only=True, slots=True)
class CorpusUtterance:
    """One utterance to write. audio: (N,) int16 at 16 kHz, or the bytes of a file with this `suffix` and this
    duration in `seconds`, which are written unchanged. split: may be ""."""

    id: str
    language: str
    text: str
    speaker: str
    split: str
    kind: str
    source: str
    licence: str
    audio: np.ndarray | bytes
    suffix: str = ".wav"
    seconds: float | None = None
    name: str = ""  # in the tar, if the id is not a valid file name
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


def settings_hash(settings: dict[str, Any]) -> str:
    """SHA-256 of the settings as sorted JSON; corpora with the same hash have the same utterances."""
    return json_sha256(settings)


def finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` holds the complete corpus of these settings; file sizes are checked, not contents."""
    seal = read_seal(out)
    if seal is None or seal.get("settings_hash") != settings_hash(settings):
        return False
    sizes = {name: entry["size"] for name, entry in seal["files"].items()}
    return all((out / name).is_file() and (out / name).stat().st_size == size for name, size in sizes.items())


def read_seal(out: Path) -> dict[str, Any] | None:
    """The contents of `corpus.json`, or None if it is missing or unreadable."""
    try:
        seal = json.loads((out / SEAL).read_text())
    except (OSError, ValueError):
        return None
    return seal if isinstance(seal, dict) and "files" in seal else None


def verify(out: Path) -> None:
    """Check the SHA-256 of every file. Raises MayaError with the name of the first that differs."""
    seal = read_seal(out)
    if seal is None:
        raise MayaError(f"{out} holds no finished corpus (no {SEAL}); make it again")
    for name, entry in seal["files"].items():
        if not (out / name).is_file() or file_sha256(out / name) != entry["sha256"]:
            raise MayaError(
                f"{out / name} is missing or has changed since it was written; make the corpus again"
            )


def describe(seal: dict[str, Any]) -> str:
    """A line for each split: utterances, hours and languages."""
    lines = []
    for split in ("train", "dev", "test"):
        cells = [by_split[split] for by_split in seal["summary"].values() if split in by_split]
        count, hours = sum(c["utterances"] for c in cells), sum(c["hours"] for c in cells)
        lines.append(f"{split}: {count} utterances, {hours:.2f} h, {len(cells)} languages")
    return "\n".join(lines)


def write_corpus(
    out: Path,
    utterances: Iterable[CorpusUtterance],
    settings: dict[str, Any],
    *,
    total: int | None = None,
    versions: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Write the corpus and return the contents of its `corpus.json`.

    settings: the options that determine the corpus; `finished` compares their hash. total: the number of
    utterances, for the progress line. versions: stored for information. A corpus already at `out` is replaced
    at the end, in one rename. Raises MayaError if `out` is another folder, and after Ctrl-C, a full disk or a
    failing utterance; then nothing is left behind.
    """
    _refuse_foreign(out)
    with _temporary_sibling(out) as folder:
        summary = _write_files(folder, _with_progress(utterances, total, out))
        paths = sorted(folder.iterdir())
        files: dict[str, dict[str, Any]] = {
            p.name: {"size": p.stat().st_size, "sha256": file_sha256(p)} for p in paths
        }
        seal = {
            "settings": settings,
            "settings_hash": settings_hash(settings),
            "versions": versions or {},
            "summary": summary,
            "files": files,
            "sha256": sha256("".join(f["sha256"] for f in files.values())),
        }
        (folder / SEAL).write_text(json.dumps(seal, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        _move_into_place(folder, out)
    return seal


def shuffled_rounds(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """All items in random order, then again in another order, without end: all are equally frequent."""
    while items:
        yield from rng.sample(items, len(items))


def wav_bytes(audio: np.ndarray) -> bytes:
    """A whole mono WAV file of (N,) int16 samples at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.ascontiguousarray(audio, dtype="<i2").tobytes())
    return buffer.getvalue()


def _write_files(
    folder: Path, utterances: Iterable[CorpusUtterance]
) -> dict[str, dict[str, dict[str, float]]]:
    """Write tars and manifest. Returns utterances and hours by language and split."""
    counts: dict[str, dict[str, list[float]]] = {}
    seen: set[str] = set()
    with contextlib.ExitStack() as stack:
        manifest = stack.enter_context(open(folder / MANIFEST, "w", encoding="utf-8"))
        tars: dict[str, tarfile.TarFile] = {}
        for utterance in utterances:
            if utterance.id in seen:
                raise MayaError(f"utterance id {utterance.id!r} appears twice; ids must be unique")
            seen.add(utterance.id)
            name = f"{utterance.language}.tar"
            if name not in tars:
                tars[name] = stack.enter_context(
                    tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (in the stack)
                )
            row = _add(tars[name], name, utterance)
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
            cell = counts.setdefault(utterance.language, {}).setdefault(utterance.split, [0, 0.0])
            cell[0] += 1
            cell[1] += row.get("duration", 0.0)
    return {
        language: {s: {"utterances": int(n), "hours": round(t / 3600, 4)} for s, (n, t) in cells.items()}
        for language, cells in counts.items()
    }


def _add(tar: tarfile.TarFile, tar_name: str, utterance: CorpusUtterance) -> dict[str, Any]:
    """Append one recording to the tar; returns the manifest row."""
    if isinstance(utterance.audio, bytes):
        data, seconds = utterance.audio, utterance.seconds
    else:
        data, seconds = wav_bytes(utterance.audio), len(utterance.audio) / SAMPLE_RATE
    # TarInfo starts with owner 0, mode 644 and mtime 0, so nothing depends on this machine.
    folder = "/".join(part for part in (utterance.language, utterance.split) if part)
    info = tarfile.TarInfo(f"{folder}/{utterance.name or utterance.id}{utterance.suffix}")
    info.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE  # USTAR: one header block, then the data
    tar.addfile(info, io.BytesIO(data))
    row = {
        "id": utterance.id,
        "language": utterance.language,
        "text": utterance.text,
        "audio": info.name,
        "tar": tar_name,
        "offset": offset,
        "size": len(data),
        "duration": None if seconds is None else round(seconds, 6),
        "speaker": utterance.speaker,
        "split": utterance.split,
        "kind": utterance.kind,
        "source": utterance.source,
        "licence": utterance.licence,
        "labels": dict(utterance.labels),
    }
    optional = ("duration", "speaker", "split", "kind", "source", "licence", "labels")
    return {name: value for name, value in row.items() if name not in optional or value not in (None, "", {})}


@contextlib.contextmanager
def _temporary_sibling(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is always removed at the end. Raises MayaError for OSError and Ctrl-C."""
    folder = out.parent / f".{out.name}.partial-{socket.gethostname()}-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(out)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    except KeyboardInterrupt:
        raise MayaError(f"stopped before {out} was complete; nothing was left behind; run it again") from None
    except OSError as error:
        raise MayaError(
            f"cannot write the corpus to {out} ({error.strerror or error}); nothing was left behind; free "
            "space or choose another folder, and run it again"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(out: Path) -> None:
    """Remove the temporary folders of killed processes of this machine."""
    prefix = f".{out.name}.partial-{socket.gethostname()}-"
    for path in out.parent.glob(f".{out.name}.partial-*"):
        pid = path.name.removeprefix(prefix)
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refuse_foreign(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / SEAL).is_file())):
        raise MayaError(f"{out} exists and holds no corpus (no {SEAL}); choose another folder or remove it")


def _move_into_place(folder: Path, out: Path) -> None:
    old = folder.with_name(folder.name + "-old")
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _with_progress(
    utterances: Iterable[CorpusUtterance], total: int | None, out: Path
) -> Iterator[CorpusUtterance]:
    """Yield all utterances, with the progress on stderr: a moving line on a terminal, else every tenth."""
    start, moving, tenth = time.monotonic(), sys.stderr.isatty(), 0
    number = 0
    for number, utterance in enumerate(utterances, 1):  # noqa: B007 (used after the loop)
        yield utterance
        part = 10 * number // total if total else number // 500
        if part > tenth or (moving and number % 20 == 0):
            tenth = part
            of = f" of {total}" if total else ""
            line = f"{out.name}: {number}{of} utterances, {time.monotonic() - start:.0f} s"
            print(f"\r{line}" if moving else line, end="" if moving else "\n", file=sys.stderr, flush=True)
    if moving and number:
        print(file=sys.stderr)
