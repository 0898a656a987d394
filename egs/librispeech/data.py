"""LibriSpeech from the web or from a folder, as lhotse's manifests: one pair of files for each of its parts.

    python -m egs.librispeech.data download --kind mini --out download
    python -m egs.librispeech.data manifests --source download --out exp/librispeech/download/manifests

lhotse's own recipe downloads, reads transcripts and looks into the audio files; Maya keeps account of what it
leaves out. A part that is done is not done again unless its transcripts or its audio files have changed.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from maya.errors import MayaError
from maya.recipes.arguments import COUNT
from maya.recipes.markers import is_done, mark_done, stamp

FULL = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)
MINI = ("train-clean-5", "dev-clean-2")
_KINDS = {"full": "librispeech", "mini": "mini_librispeech"}
_FILES = ("librispeech_recordings_{}.jsonl.gz", "librispeech_supervisions_{}.jsonl.gz")


def download(kind: str, out: Path) -> Path:
    """Download and unpack all of LibriSpeech ("full", 60 GB) or its small form ("mini", 0.5 GB) into `out`.

    What is there already is kept; a download that broke off goes on. Returns the folder of the parts. Raises
    MayaError when the network or the disk fails.
    """
    from lhotse.recipes import download_librispeech  # here, so that --help does not load it

    try:
        return Path(download_librispeech(out, dataset_parts=_KINDS[kind]))
    except OSError as error:  # of the network, too
        raise MayaError(f"the download into {out} stopped ({error}); run the same command again") from error


def locate(source: Path) -> Path:
    """The folder of the parts: `source` or its LibriSpeech/. MayaError when neither has a part."""
    for folder in (source / "LibriSpeech", source):
        if parts_in(folder):
            return folder
    raise MayaError(
        f"{source} holds no LibriSpeech: expected train-clean-100, dev-clean or another of its parts, in it "
        "or in its folder LibriSpeech"
    )


def parts_in(folder: Path) -> list[str]:
    """The parts that are there, training first."""
    return [part for part in (*FULL, *MINI) if (folder / part).is_dir()]


def manifests(source: Path, out: Path, *, parts: Sequence[str] = (), jobs: int = 0) -> None:
    """Write `out`/librispeech_{recordings,supervisions}_PART.jsonl.gz of each part, and left_out.json.

    Args:
        parts: those to take; all that are there by default. The manifests of others are removed.
        jobs: threads that look into audio files; 0 is one for each CPU.

    Raises MayaError when a part is missing, a transcript cannot be read, or a file is no audio.
    """
    corpus = locate(source).resolve()  # for paths that hold wherever the manifests are read
    available = parts_in(corpus)
    if missing := [part for part in parts if part not in available]:
        raise MayaError(f"{corpus} has no {missing[0]}; there are {', '.join(available)}")
    selected = [part for part in available if not parts or part in parts]
    out.mkdir(parents=True, exist_ok=True)
    left_out: dict[str, list[str]] = {}
    for part in selected:
        left_out[part] = _manifests_of(corpus, part, out, jobs or os.cpu_count() or 1)
        print(f"{part}: {left_out_line(left_out[part])}", flush=True)
    for part in set((*FULL, *MINI)) - set(selected):
        for name in (*_FILES, "{}.done.json"):
            (out / name.format(part)).unlink(missing_ok=True)
    rows = [{"id": i, "part": part, "reason": "missing_audio"} for part, ids in left_out.items() for i in ids]
    (out / "left_out.json").write_text(json.dumps(rows, indent=0))


def left_out_line(ids: Sequence[str]) -> str:
    """What a person should know of a part."""
    if not ids:
        return "every transcript has its audio"
    return f"{len(ids)} transcripts have no audio and are left out (left_out.json): {', '.join(ids[:3])} ..."


def _manifests_of(corpus: Path, part: str, out: Path, jobs: int) -> list[str]:
    """Write the pair of a part, whole or not at all; returns the ids that have no audio."""
    texts, identity = transcripts(corpus / part)
    inputs = {"part": str((corpus / part).resolve()), "transcripts": identity}
    marker, files = out / f"{part}.done.json", [out / name.format(part) for name in _FILES]
    stamps = {name: stamp(audio_path(corpus / part, name)) for name in texts}
    missing = [name for name, of_audio in stamps.items() if of_audio == "absent"]
    inputs["audio"] = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    if is_done(marker, inputs) and all(file.is_file() for file in files):
        return missing
    if len(missing) == len(texts):
        raise MayaError(
            f"{corpus / part} has transcripts and no audio: {audio_path(corpus / part, texts[0])}"
        )
    from lhotse.audio import AudioLoadingError, DurationMismatchError
    from lhotse.recipes import prepare_librispeech

    partial = out / f".{part}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        try:
            prepare_librispeech(corpus, dataset_parts=[part], output_dir=partial, num_jobs=jobs)
        # RuntimeError is of soundfile, AssertionError and ValueError of manifests that do not fit together.
        except (AudioLoadingError, DurationMismatchError, RuntimeError, AssertionError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise MayaError(
                f"lhotse cannot read {corpus / part} ({reason}); unpack it again, or remove the file it names"
            ) from error
        for file in files:
            (partial / file.name).replace(file)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    mark_done(marker, inputs)
    return missing


def transcripts(part: Path) -> tuple[list[str], str]:
    """The ids in all *.trans.txt of a part, and a hash of those files. MayaError for a line without words."""
    ids: list[str] = []
    digest = hashlib.sha256()
    for path in sorted(part.rglob("*.trans.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        digest.update(f"{path.relative_to(part)}\n{text}".encode())
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            name, _, words = line.strip().partition(" ")
            if not words.strip():
                raise MayaError(f"{path}:{number} has no words after {name!r}; unpack {part.name} again")
            ids.append(name)
    if not ids:
        raise MayaError(f"{part} has no *.trans.txt with a transcript; unpack {part.name} again")
    return ids, digest.hexdigest()


def audio_path(part: Path, name: str) -> Path:
    """Where READER-CHAPTER-NUMBER lies in a part."""
    return part / Path(name.replace("-", "/")).parent / f"{name}.flac"


def sets(data: Path) -> list[str]:
    """The dev and test sets of prepared data, in LibriSpeech's order; without any of LibriSpeech's own, dev
    and test as they were drawn. None where nothing was held out. Raises MayaError for data that are not
    prepared."""
    from maya.data.table.table import Table, part_path

    own = [part for part in (*FULL, *MINI) if part_path(data, part).is_file()]
    return own or [part for part in ("dev", "test") if len(Table.open(part_path(data, part)))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m egs.librispeech.data", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("download", help="download and unpack with lhotse's recipe")
    fetch.add_argument("--kind", choices=tuple(_KINDS), default="full", help="60 GB, or 0.5 GB (full)")
    fetch.add_argument("--out", type=Path, required=True, help="LibriSpeech/ comes to lie in it")
    write = commands.add_parser("manifests", help="write lhotse's manifests of each part")
    write.add_argument(
        "--source", type=Path, required=True, help="folder that holds LibriSpeech/, or its content"
    )
    write.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    write.add_argument("--parts", nargs="*", default=(), metavar="PART", help="by default all that are there")
    write.add_argument("--jobs", type=COUNT, default=0, help="threads; 0 is one for each CPU (0)")
    show = commands.add_parser("sets", help="name the dev and test sets of prepared data")
    show.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    args = parser.parse_args(argv)
    try:
        if args.command == "download":
            print(download(args.kind, args.out))
        elif args.command == "sets":
            print(*sets(args.data))
        else:
            manifests(args.source, args.out, parts=args.parts, jobs=args.jobs)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
