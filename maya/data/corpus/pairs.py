"""Pairs of files: audio, and its transcript in a .txt of the same name."""

import unicodedata
from collections import Counter
from pathlib import Path

from maya.data.corpus.common import AUDIO_SUFFIXES, folder_language
from maya.data.corpus.manifest import Problem, ReadOptions, Result, Row, read_lines, writable
from maya.data.corpus.walk import walk
from maya.errors import MayaError

# Audio that nothing here decodes; it is counted, so that it is not passed over in silence.
_OTHER_AUDIO = (
    ".wma", ".amr", ".3gp", ".ape", ".avi", ".raw", ".pcm", ".ac3", ".wv", ".tta", ".mpc",
)  # fmt: skip


def read_pairs(folder: Path, options: ReadOptions) -> Result:
    """A row for each audio file with a .txt of the same name beside it; its id is the path without suffix.

    Suffixes count in any case. Links are followed. Audio without a .txt, a .txt without audio in a folder
    that has audio, a .txt that cannot be read and files whose names are not UTF-8 are dropped. Notes name
    the files that were passed over. Raises MayaError where two files would be the same utterance.
    """
    walked = walk(folder)
    audio: dict[str, Path] = {}
    texts: dict[str, Path] = {}
    misnamed: dict[str, Path] = {}
    for path in walked.files:
        suffix = path.suffix.lower()
        table = audio if suffix in AUDIO_SUFFIXES else texts if suffix == ".txt" else None
        if table is None:
            continue
        # Some systems write é in names as two characters, others as one.
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if writable(name) != name:
            misnamed[name] = path
            continue
        if name in table:
            raise MayaError(f"{path} and {table[name]} would be the same utterance; remove one of them")
        table[name] = path
    options.notes.extend(walked.notes(folder))
    if other := Counter(p.suffix.lower() for p in walked.files if p.suffix.lower() in _OTHER_AUDIO):
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(other.items()))
        options.notes.append(
            f"passed over files that are not decoded: {counts}; convert them to .wav or .flac"
        )
    rows, dropped = _paired(folder, audio, texts, options.language)
    folders = {path.parent for path in audio.values()}
    for name, path in misnamed.items():
        if path.suffix.lower() == ".txt" and path.parent not in folders:
            continue
        detail = f"the name of {path} is not UTF-8; rename it"
        problem = Problem(
            id=name, language=options.language or "", reason="unreadable_name", detail=detail, where=str(path)
        )
        dropped.append(problem)
    return rows, dropped


def _paired(
    folder: Path, audio: dict[str, Path], texts: dict[str, Path], language: str | None
) -> tuple[list[Row], list[Problem]]:
    """Rows and dropped utterances of audio files and texts by name."""

    def drop(name: str, reason: str, detail: str) -> Problem:
        where = str(folder / name)
        return Problem(id=name, language=language or "", reason=reason, detail=detail, where=where)

    rows, dropped = [], []
    for name, path in sorted(audio.items()):
        if name not in texts:
            dropped.append(drop(name, "no_transcript", f"{path} has no {Path(name).name}.txt beside it"))
            continue
        try:
            text = " ".join(read_lines(texts[name]))
        except MayaError as error:
            dropped.append(drop(name, "unreadable_text", str(error)))
            continue
        if "\0" in text:
            dropped.append(
                drop(name, "unreadable_text", f"{texts[name]} holds zero bytes; is it UTF-8 text?")
            )
            continue
        row = Row(
            id=name,
            language=language or folder_language(Path(name), str(path)),
            text=text,
            audio=path.relative_to(folder).as_posix(),
            where=str(path),
        )
        rows.append(row)
    folders = {Path(name).parent for name in audio}  # elsewhere a .txt is as likely a README as a transcript
    for name, path in sorted(texts.items()):
        if name not in audio and Path(name).parent in folders:
            dropped.append(drop(name, "missing_audio", f"{path} has no audio file beside it"))
    return rows, dropped
