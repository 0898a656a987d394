"""Reading a corpus, in whichever form it is: one of maya.data.formats, a `manifest.jsonl`, or pairs of audio
and .txt files."""

from pathlib import Path

from maya.data.formats.common import folder_language, joined
from maya.data.formats.hugging_face import data_set_files, read_hugging_face
from maya.data.formats.kaldi import KALDI_FILES, read_kaldi
from maya.data.formats.lhotse_manifests import lhotse_manifests, read_lhotse
from maya.data.formats.lhotse_recipes import read_recipe
from maya.data.formats.metadata import read_metadata_csv, read_metadata_jsonl
from maya.data.formats.nemo import is_nemo, nemo_manifests, read_nemo
from maya.data.formats.nemo_tarred import is_tarred, nemo_tarred, read_nemo_tarred, tarred_files
from maya.data.formats.shar import read_shar, shar_shards
from maya.data.manifest import Dropped, Row, read_lines, read_manifest
from maya.errors import MayaError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def read_corpus(
    corpus: Path, language: str | None = None, made: Path | None = None
) -> tuple[list[Row], list[Dropped]]:
    """The utterances of a corpus, and those of its files that are none: audio or text without the other.

    corpus: `lhotse:NAME:DIR`, which is read by lhotse's recipe of that name; `nemo:MANIFESTS:TARS`, see
    maya.data.formats.nemo_tarred; or a folder, of which the first of these that is there is taken:
    `manifest.jsonl` (NeMo's if its lines have an audio_filepath), `metadata.csv`, `metadata.jsonl` (here or
    in folders such as train/), a Kaldi `wav.scp`, what Hugging Face's save_to_disk wrote, lhotse Shar, lhotse
    manifests, NeMo's tarred data sets and manifests of other names, Parquet files with audio, pairs a.wav +
    a.txt at any depth. `language` is used where the corpus does not tell. Without it a folder named by a
    language code (hi/a.wav) tells. made: where audio that lies inside tables is written to (see
    maya.data.formats.hugging_face). Raises MayaError when there is nothing of these.
    """
    if (named := _named(corpus)) is not None:
        kind, first, second = named
        if kind == "lhotse":
            return read_recipe(first, Path(second).resolve(), language), []
        return read_nemo_tarred(*tarred_files(first, second), language)
    folder = corpus
    if not folder.is_dir():
        raise MayaError(f"there is no corpus folder {folder}")
    for reader in (_read_described, _read_shards):
        if (found := reader(folder, language, made)) is not None:
            return found
    rows, dropped = read_pairs(folder, language)
    if not rows:
        raise MayaError(
            f"{folder} has no manifest.jsonl, no metadata.csv and no audio file with a .txt file of the same "
            "name beside it, nor a metadata.jsonl, Kaldi's wav.scp, lhotse's, NeMo's or Hugging Face's "
            "files; one of these is needed to know what is said"
        )
    return rows, dropped


Found = tuple[list[Row], list[Dropped]]


def _read_described(folder: Path, language: str | None, made: Path | None) -> Found | None:
    """Forms that one file of a fixed name makes known."""
    if (path := folder / "manifest.jsonl").is_file() and not is_tarred(path):
        return (read_nemo([path], language) if is_nemo(path) else read_manifest(path)), []
    if (folder / "metadata.csv").is_file():
        return read_metadata_csv(folder / "metadata.csv", language), []
    if tables := _metadata_jsonl(folder):
        within = ((path, path.parent.relative_to(folder).as_posix()) for path in tables)
        files = (
            read_metadata_jsonl(path, language, "" if inside == "." else inside) for path, inside in within
        )
        return joined(files), []
    if (folder / "wav.scp").is_file():
        return read_kaldi(folder, language)
    if _is_saved(folder):
        return read_hugging_face(folder, language, made)
    return None


def _read_shards(folder: Path, language: str | None, made: Path | None) -> Found | None:
    """Forms of several files."""
    if shards := shar_shards(folder):
        return read_shar(folder, shards, language)
    if manifests := lhotse_manifests(folder):
        return read_lhotse(manifests, language), []
    tarred, tars = nemo_tarred(folder)
    if tarred:
        return read_nemo_tarred(tarred, tars, language)
    if lists := nemo_manifests(folder):
        return read_nemo(lists, language), []
    return read_hugging_face(folder, language, made) if data_set_files(folder) else None


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
    for name in ("manifest.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            return [folder / name]
    if tables := _metadata_jsonl(folder):
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


def _metadata_jsonl(folder: Path) -> list[Path]:
    """metadata.jsonl, or those of the folders of its splits."""
    if (folder / "metadata.jsonl").is_file():
        return [folder / "metadata.jsonl"]
    return sorted(path for path in folder.glob("*/metadata.jsonl") if path.is_file())


def read_pairs(folder: Path, language: str | None = None) -> tuple[list[Row], list[Dropped]]:
    """A row for each audio file with a .txt of the same name beside it; its id is the path without suffix.

    Audio without a .txt, and a .txt without audio in a folder that has audio, are listed as dropped.
    """
    audio: dict[Path, Path] = {}
    texts: set[Path] = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = path.relative_to(folder).with_suffix("")
        if path.suffix.lower() in AUDIO_SUFFIXES:
            if name in audio:
                raise MayaError(f"{path} and {audio[name]} would be the same utterance; remove one of them")
            audio[name] = path
        elif path.suffix == ".txt":
            texts.add(name)

    def drop(name: Path, reason: str, detail: str) -> Dropped:
        where = str(folder / name)
        return Dropped(id=name.as_posix(), language=language or "", reason=reason, detail=detail, where=where)

    rows, dropped = [], []
    for name, path in sorted(audio.items()):
        if name not in texts:
            dropped.append(drop(name, "no_transcript", f"{path} has no {name.name}.txt beside it"))
            continue
        row = Row(
            id=name.as_posix(),
            language=language or folder_language(name, str(path)),
            text=" ".join(read_lines(folder / f"{name}.txt")),
            audio=path.relative_to(folder).as_posix(),
            where=str(path),
        )
        rows.append(row)
    folders = {name.parent for name in audio}  # elsewhere a .txt is as likely a README as a transcript
    for name in sorted(texts - audio.keys()):
        if name.parent in folders:
            dropped.append(drop(name, "missing_audio", f"{folder / name}.txt has no audio file beside it"))
    return rows, dropped
