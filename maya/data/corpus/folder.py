"""Reading a corpus, in whichever form it is: one of maya.data.formats, a `manifest.jsonl`, or pairs of audio
and .txt files."""

import os.path
from pathlib import Path

from maya.data.corpus.common import AUDIO_SUFFIXES, joined
from maya.data.corpus.common_voice import common_voice_tables, read_common_voice
from maya.data.corpus.hugging_face import data_set_files, read_hugging_face
from maya.data.corpus.kaldi import KALDI_FILES, read_kaldi
from maya.data.corpus.lhotse_manifests import lhotse_manifests, read_lhotse
from maya.data.corpus.lhotse_recipes import read_recipe
from maya.data.corpus.manifest import Dropped, Row, read_manifest
from maya.data.corpus.metadata import metadata_tables, part_tables, read_metadata
from maya.data.corpus.nemo import is_nemo, nemo_manifests, read_nemo
from maya.data.corpus.nemo_tarred import is_tarred, nemo_tarred, read_nemo_tarred, tarred_files
from maya.data.corpus.pairs import read_pairs
from maya.data.corpus.shar import read_shar, shar_shards
from maya.data.corpus.walk import walk
from maya.errors import MayaError

__all__ = ["AUDIO_SUFFIXES", "corpus_files", "describing_files", "is_named", "read_corpus", "read_pairs"]


def read_corpus(
    corpus: Path, language: str | None = None, made: Path | None = None, notes: list[str] | None = None
) -> tuple[list[Row], list[Dropped]]:
    """The utterances of a corpus, and those of its files that are none: audio or text without the other.

    corpus: `lhotse:NAME:DIR`, which is read by lhotse's recipe of that name; `nemo:MANIFESTS:TARS`, see
    maya.data.corpus.nemo_tarred; or a folder, of which the first of these that is there is taken:
    `manifest.jsonl` (NeMo's if its lines have an audio_filepath), `metadata.csv`, `metadata.tsv`,
    `metadata.jsonl` (here or in folders such as train/), Common Voice's tables beside clips/, train.csv,
    dev.tsv and the like, a Kaldi
    `wav.scp`, what Hugging Face's save_to_disk wrote, lhotse Shar, lhotse manifests, NeMo's tarred data sets
    and manifests of other names, Parquet files with audio, pairs a.wav + a.txt at any depth. `language` is
    used where the corpus does not tell. Without it a folder named by a language code (hi/a.wav) tells. made:
    where audio that lies inside tables is written to (see maya.data.corpus.hugging_face). notes: gets what
    was passed over, a sentence each. Raises MayaError when there is nothing of these.
    """
    notes = [] if notes is None else notes
    if (named := _named(corpus)) is not None:
        kind, first, second = named
        if kind == "lhotse":
            return read_recipe(first, Path(second).resolve(), language)
        return read_nemo_tarred(*tarred_files(first, second), language)
    folder = corpus
    if not folder.is_dir():
        raise MayaError(f"there is no corpus folder {folder}")
    result = _read_described(folder, language, made, notes) or _read_shards(folder, language, made, notes)
    if result is not None:
        _note_other_forms(folder, notes)
        return result
    rows, dropped = read_pairs(folder, language, notes)
    if not rows:
        unusable = f" ({len(dropped)} files lack one: {dropped[0].detail})" if dropped else ""
        raise MayaError(
            f"{folder} has no manifest.jsonl, no metadata.csv and no audio file with a .txt file of the same "
            f"name beside it{unusable}, nor a metadata.jsonl, Common Voice's tables, Kaldi's wav.scp, "
            "lhotse's, NeMo's or Hugging Face's files; one of these is needed to know what is said"
        )
    return rows, dropped


Result = tuple[list[Row], list[Dropped]]


def _read_described(folder: Path, language: str | None, made: Path | None, notes: list[str]) -> Result | None:
    """Forms that one file of a fixed name makes known."""
    if (path := folder / "manifest.jsonl").is_file() and not is_tarred(path):
        return (read_nemo([path], language) if is_nemo(path) else read_manifest(path)), []
    if tables := metadata_tables(folder):
        within = ((path, path.parent.relative_to(folder).as_posix()) for path in tables)
        files = (read_metadata(path, language, "" if inside == "." else inside) for path, inside in within)
        rows = joined(files)
        _note_unnamed_audio(folder, rows, tables[0].name, notes)
        return rows, []
    if tables := common_voice_tables(folder):
        return read_common_voice(folder, tables, language, notes), []
    if tables := part_tables(folder):
        return joined(read_metadata(path, language) for path in tables), []
    if (folder / "wav.scp").is_file():
        return read_kaldi(folder, language)
    if _is_saved(folder):
        return read_hugging_face(folder, language, made)
    return None


def _read_shards(folder: Path, language: str | None, made: Path | None, notes: list[str]) -> Result | None:
    """Forms of several files."""
    if shards := shar_shards(folder):
        return read_shar(folder, shards, language)
    if manifests := lhotse_manifests(folder):
        return read_lhotse(manifests, language)
    tarred, tars = nemo_tarred(folder)
    if tarred:
        return read_nemo_tarred(tarred, tars, language)
    if lists := nemo_manifests(folder):
        return read_nemo(lists, language), []
    return read_hugging_face(folder, language, made) if data_set_files(folder) else None


_DESCRIPTIONS = ("manifest.jsonl", "metadata.csv", "metadata.tsv", "metadata.jsonl", "wav.scp")


def _note_other_forms(folder: Path, notes: list[str]) -> None:
    """Say which descriptions of the corpus are not read because another one is."""
    read = describing_files(folder)
    others = [name for name in _DESCRIPTIONS if (folder / name).is_file() and folder / name not in read]
    if others and read:
        notes.append(f"read {read[0].name}; not read: {', '.join(others)}")


def _note_unnamed_audio(folder: Path, rows: list[Row], table: str, notes: list[str]) -> None:
    """Say how many audio files no line of the table names."""
    named = {os.path.normpath(folder / row.audio) for row in rows}
    audio = (path for path in walk(folder).files if path.suffix.lower() in AUDIO_SUFFIXES)
    if unnamed := [path for path in audio if os.path.normpath(path) not in named]:
        first = unnamed[0].relative_to(folder)
        notes.append(f"{len(unnamed)} audio files are named by no line of {table}, {first} among them")


def corpus_files(folder: Path) -> list[Path]:
    """All files of a folder, as far as `read_corpus` looks: links are followed, hidden files left out."""
    return walk(folder).files


def is_named(corpus: Path) -> bool:
    """Whether a corpus is lhotse:NAME:DIR or nemo:MANIFESTS:TARS, and no folder."""
    return _named(corpus) is not None


def _named(corpus: Path) -> tuple[str, str, str] | None:
    kind, *rest = str(corpus).split(":", 2)
    if kind not in ("lhotse", "nemo") or not rest:
        return None
    if len(rest) < 2 or not all(rest):
        form = "lhotse:NAME:DIR" if kind == "lhotse" else "nemo:MANIFESTS:TARS"
        raise MayaError(f"the corpus {str(corpus)!r} must read {form}")
    return kind, rest[0], rest[1]


def _is_saved(folder: Path) -> bool:
    """Whether save_to_disk of Hugging Face's datasets wrote a folder."""
    info = (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    return info or (folder / "dataset_dict.json").is_file()


def describing_files(corpus: Path) -> list[Path]:
    """The files from which `read_corpus` takes the utterances of a corpus; none where they are pairs."""
    if (named := _named(corpus)) is not None:
        kind, first, second = named
        if kind == "lhotse":
            return sorted(path for path in Path(second).rglob("*") if path.is_file())
        return [path for paths in tarred_files(first, second) for path in paths]
    folder = corpus
    if (path := folder / "manifest.jsonl").is_file():
        return [path]
    if tables := metadata_tables(folder) or common_voice_tables(folder) or part_tables(folder):
        return tables
    if (folder / "wav.scp").is_file():
        return [folder / name for name in KALDI_FILES if (folder / name).is_file()]
    if _is_saved(folder):
        return data_set_files(folder)
    if shards := shar_shards(folder):
        return [path for pair in shards for path in pair]
    if manifests := lhotse_manifests(folder):
        return [path for pair in manifests for path in pair if path is not None]
    tarred, tars = nemo_tarred(folder)
    return [*tarred, *tars] or nemo_manifests(folder) or data_set_files(folder)
