"""Reading a corpus, whichever form it has. `FORMS` is the table of forms; `register_corpus` adds one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from maya.data.corpus.common import unused
from maya.data.corpus.common_voice import common_voice_tables, read_common_voice
from maya.data.corpus.hugging_face import data_set_files, is_saved, read_hugging_face
from maya.data.corpus.kaldi import kaldi_files, read_kaldi
from maya.data.corpus.labelled import labelled_files, labelled_layout, read_labelled
from maya.data.corpus.lhotse_manifests import lhotse_files, read_lhotse
from maya.data.corpus.lhotse_recipes import read_recipe
from maya.data.corpus.manifest import (
    Problem,
    ReadOptions,
    Result,
    Row,
    checked_rows,
    read_manifest,
    writable,
)
from maya.data.corpus.metadata import (
    metadata_tables,
    part_tables,
    read_metadata,
    read_metadata_csv,
    read_metadata_jsonl,
    read_part_tables,
)
from maya.data.corpus.nemo import has_fields, is_nemo, nemo_manifests, read_nemo, read_nemo_folder
from maya.data.corpus.nemo_tarred import (
    is_tarred,
    nemo_tarred,
    read_nemo_tarred,
    tarred_files,
    tarred_pieces,
)
from maya.data.corpus.pairs import read_pairs
from maya.data.corpus.pieces import CorpusPiece, line_pieces
from maya.data.corpus.shar import read_shar, shar_files, shar_pieces
from maya.data.corpus.walk import walk
from maya.errors import MayaError


class CorpusForm(NamedTuple):
    """A form of corpora. files: those that describe a corpus of this form, by which a change of it is
    noticed; none where all its files do. pieces: of a corpus, so that each has about so many rows, in the
    order in which all of it is read; `read` then reads the one in its options. None where it cannot."""

    name: str
    matches: Callable[[Path], Any]
    read: Callable[[Path, ReadOptions], Result]
    files: Callable[[Path], Sequence[Path]]
    pieces: Callable[[Path, int], Sequence[CorpusPiece]] | None = None


def register_corpus(
    name: str,
    matches: Callable[[Path], Any],
    read: Callable[[Path, ReadOptions], Result],
    files: Callable[[Path], Sequence[Path]] = lambda corpus: (),
    pieces: Callable[[Path, int], Sequence[CorpusPiece]] | None = None,
) -> None:
    """Add a form of corpora; it is tried before those of Maya. A file that --experiment names may call this.

    matches: whether a corpus, as --corpus gives it, is of this form. read: its rows, and what cannot be used;
    the audio of a row, or its tar, is absolute, or relative to the corpus folder. Rows are checked as the
    lines of a manifest are. files, pieces: see `CorpusForm`; where a corpus is no path, only its files tell
    that it changed. A name that is registered again replaces the form.
    """

    def read_checked(corpus: Path, options: ReadOptions) -> Result:
        rows, problems = read(corpus, options)
        return checked_rows(rows), problems

    FORMS[:] = [form for form in FORMS if form.name != name]
    FORMS.insert(0, CorpusForm(name, matches, read_checked, files, pieces))


def read_corpus(
    corpus: Path,
    language: str | None = None,
    made: Path | None = None,
    notes: list[str] | None = None,
    labels: Sequence[str] = (),
) -> Result:
    """The utterances of a corpus, and files that cannot be used: audio or text without the other.

    corpus: `lhotse:NAME:DIR`, which lhotse's recipe of that name reads; `nemo:MANIFESTS:TARS`, see
    maya.data.corpus.nemo_tarred; or a folder. A folder is read in the first form of `FORMS` that matches.
    Without a `language`, a folder named by a language code (hi/a.wav) names it where the corpus does not.
    The other arguments: see ReadOptions. Raises MayaError when no form matches, and when nothing in the
    corpus can be used.
    """
    if writable(str(corpus)) != str(corpus):
        raise MayaError(f"the path {writable(str(corpus))} is not UTF-8 text; rename its folders")
    options = ReadOptions(language=language, made=made, labels=tuple(labels))
    rows, problems = read_piece(corpus, options)
    if notes is not None:
        given = {name for row in rows for name in row.labels}
        notes += map(writable, [*options.notes, *unread_notes([options]), *label_notes(given, labels)])
    return rows, problems


def pieces_of(corpus: Path, rows: int) -> list[CorpusPiece]:
    """The pieces of a corpus, of about so many rows; none where it is read as a whole."""
    form = form_of(corpus)
    pieces = [] if form is None or form.pieces is None else list(form.pieces(corpus, rows))
    return pieces if len(pieces) > 1 else []


def label_notes(given: set[str], asked: Iterable[str]) -> list[str]:
    """Notes about labels that were asked for and that no utterance has. given: the names of those it has."""
    absent = [name for name in asked if name not in given | {"speaker"}]
    return [f"no utterance has the label {name} of prepare.labels" for name in absent]


def unread_notes(options: Iterable[ReadOptions]) -> list[str]:
    """Notes about what the readers of all pieces passed over."""
    total = ReadOptions()
    for given in options:
        for what, (count, names) in given.unread.items():
            total.pass_over(what, count, names)
    return [note for what, (count, names) in total.unread.items() for note in unused(names, what, count)]


def read_piece(corpus: Path, options: ReadOptions) -> Result:
    """As `read_corpus`, of options.piece, which may have no rows, or of all; notes are left in `options`."""
    rows, problems = _read(corpus, options)
    return rows, [writable_problem(problem) for problem in problems]


def _read(corpus: Path, options: ReadOptions) -> Result:
    form = form_of(corpus)
    if form is None and not corpus.is_dir():
        if corpus.exists():
            raise MayaError(f"{corpus} is no corpus: name a folder, or a .json, .jsonl, .csv or .tsv file")
        raise MayaError(f"there is no corpus folder {corpus}")
    if form is not None:
        sink, folder = options.sink, corpus.parent.absolute()
        if corpus.is_file() and sink is not None:
            options = replace(options, sink=lambda rows, bad: sink([_beside(folder, r) for r in rows], bad))
        rows, problems = form.read(corpus, options)
        if not rows and options.piece is None and options.sink is None:
            unusable = f"; {len(problems)} cannot be used: {problems[0].detail}" if problems else ""
            raise MayaError(f"{corpus} describes no utterance that can be used{unusable}")
        if corpus.is_file():
            rows = [_beside(folder, row) for row in rows]
        if options.first:
            _note_other_forms(corpus, form, options.notes)
        return rows, problems
    rows, problems = read_pairs(corpus, options)
    if not rows:
        if problems and all(problem.reason == "no_transcript" for problem in problems):
            raise MayaError(
                f"{corpus} has {len(problems)} recordings and no texts: write what is said in a.wav into "
                f"a.txt beside it, or let a model do so: maya label --from MODEL {corpus} --table review.tsv"
            )
        unusable = f" ({len(problems)} files lack one: {problems[0].detail})" if problems else ""
        raise MayaError(
            f"{corpus} has no manifest.jsonl, no metadata.csv and no audio file with a .txt file of the same "
            f"name beside it{unusable}, nor a metadata.jsonl, Common Voice's tables, Kaldi's wav.scp, "
            "lhotse's, NeMo's or Hugging Face's files; one of these is needed to know what is said"
        )
    return rows, problems


def _beside(folder: Path, row: Row) -> Row:
    """A row of a corpus that is a file: its audio, or its tar, is relative to the folder of the file."""
    if row.tar is not None:
        return replace(row, tar=str(folder / row.tar))
    return replace(row, audio=str(folder / row.audio))


def writable_problem(problem: Problem) -> Problem:
    """With texts that can be written to a file."""
    return replace(problem, **{name: writable(text) for name, text in asdict(problem).items()})


def form_of(corpus: Path) -> CorpusForm | None:
    """The first form that matches; None for pairs of a.wav and a.txt."""
    return next((form for form in FORMS if form.matches(corpus)), None)


def describing_files(corpus: Path) -> list[Path]:
    """The files from which `read_corpus` takes the utterances of a corpus; none where they are pairs."""
    form = form_of(corpus)
    return [] if form is None else list(form.files(corpus))


def corpus_files(folder: Path) -> list[Path]:
    """All files of a folder that `read_corpus` looks at: links are followed, hidden files left out."""
    return walk(folder).files


def is_named(corpus: Path) -> bool:
    """Whether a corpus is lhotse:NAME:DIR or nemo:MANIFESTS:TARS, and no folder."""
    return bool(_named("lhotse", corpus) or _named("nemo", corpus))


def _named(kind: str, corpus: Path) -> tuple[str, str] | None:
    """(first, second) of KIND:FIRST:SECOND; None for any other corpus."""
    first, *rest = str(corpus).split(":", 2)
    if first != kind or not rest:
        return None
    if len(rest) < 2 or not all(rest):
        form = "lhotse:NAME:DIR" if kind == "lhotse" else "nemo:MANIFESTS:TARS"
        raise MayaError(f"the corpus {str(corpus)!r} must read {form}")
    return rest[0], rest[1]


def _lhotse(corpus: Path) -> tuple[str, str] | None:
    return _named("lhotse", corpus)


def _read_lhotse_recipe(corpus: Path, options: ReadOptions) -> Result:
    name, folder = _lhotse(corpus) or ("", "")
    return read_recipe(name, Path(folder).resolve(), options)


def _recipe_files(corpus: Path) -> list[Path]:
    _, folder = _lhotse(corpus) or ("", "")
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def _tarred(corpus: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    """(manifests, tars) of nemo:MANIFESTS:TARS, or of a folder."""
    named = _named("nemo", corpus)
    return tarred_files(*named) if named else nemo_tarred(corpus)


def _tarred_files(corpus: Path) -> list[Path]:
    return [path for paths in _tarred(corpus) for path in paths]


def _table(corpus: Path) -> list[Path]:
    """A manifest or a table that is named itself."""
    return [corpus] if corpus.suffix in (".json", ".jsonl", ".csv", ".tsv") and corpus.is_file() else []


def _read_table(path: Path, options: ReadOptions) -> Result:
    if path.suffix in (".csv", ".tsv"):
        return read_metadata_csv(path, options), []
    if is_nemo(path):
        return read_nemo([path], options), []
    if has_fields(path, "file_name"):
        return read_metadata_jsonl(path, options), []
    return read_manifest(path, None, options.labels, options.piece), []


def _manifest(folder: Path) -> list[Path]:
    path = folder / "manifest.jsonl"
    return [path] if path.is_file() and not is_tarred(path) else []


def _read_manifest(folder: Path, options: ReadOptions) -> Result:
    path = folder / "manifest.jsonl"
    if is_nemo(path):
        return read_nemo([path], options), []
    return read_manifest(path, None, options.labels, options.piece), []


def _saved(folder: Path) -> list[Path]:
    return data_set_files(folder) if is_saved(folder) else []


Files = Callable[[Path], Sequence[Path]]
Pieces = Callable[[Path, int], Sequence[CorpusPiece]]


def _lines_of(files: Files) -> Pieces:
    return lambda folder, rows: [piece for path in files(folder) for piece in line_pieces(path, rows)]


def _files_of(files: Files) -> Pieces:
    return lambda folder, rows: [CorpusPiece(path) for path in files(folder)]


# A folder is read in the first form that matches.
FORMS: list[CorpusForm] = [
    CorpusForm("lhotse:NAME:DIR", _lhotse, _read_lhotse_recipe, _recipe_files),
    CorpusForm(
        "nemo:MANIFESTS:TARS",
        lambda corpus: _named("nemo", corpus),
        lambda corpus, options: read_nemo_tarred(*_tarred(corpus), options),
        _tarred_files,
        lambda corpus, rows: tarred_pieces(*_tarred(corpus)),
    ),
    CorpusForm("a manifest or table", _table, _read_table, _table),
    CorpusForm("manifest.jsonl", _manifest, _read_manifest, _manifest, _lines_of(_manifest)),
    CorpusForm("metadata.csv", metadata_tables, read_metadata, metadata_tables),
    CorpusForm("Common Voice", common_voice_tables, read_common_voice, common_voice_tables),
    CorpusForm("train.csv", part_tables, read_part_tables, part_tables),
    CorpusForm("Kaldi", kaldi_files, read_kaldi, kaldi_files),
    CorpusForm("Hugging Face, save_to_disk", is_saved, read_hugging_face, _saved, _files_of(_saved)),
    CorpusForm("lhotse Shar", shar_files, read_shar, shar_files, lambda folder, rows: shar_pieces(folder)),
    CorpusForm("lhotse manifests", lhotse_files, read_lhotse, lhotse_files),
    CorpusForm(
        "NeMo tars",
        lambda folder: nemo_tarred(folder)[0],
        lambda folder, options: read_nemo_tarred(*nemo_tarred(folder), options),
        _tarred_files,
        lambda folder, rows: tarred_pieces(*nemo_tarred(folder)),
    ),
    CorpusForm("NeMo manifests", nemo_manifests, read_nemo_folder, nemo_manifests, _lines_of(nemo_manifests)),
    CorpusForm(
        "Hugging Face, Parquet", data_set_files, read_hugging_face, data_set_files, _files_of(data_set_files)
    ),
    CorpusForm("emotion, sounds, singing", labelled_layout, read_labelled, labelled_files),
]

_NAMED = 5  # files that a note lists
_DESCRIPTIONS = ("manifest.jsonl", "metadata.csv", "metadata.tsv", "metadata.jsonl", "wav.scp")


def _note_other_forms(folder: Path, form: CorpusForm, notes: list[str]) -> None:
    """Note which descriptions of the corpus are not read because another one is."""
    files = list(form.files(folder))
    if not files or not folder.is_dir():
        return
    others = [folder / name for name in _DESCRIPTIONS if (folder / name).is_file()]
    for other in FORMS[FORMS.index(form) + 1 :]:  # those before it do not match
        try:
            others += other.files(folder) if other.matches(folder) else []
        except MayaError:  # a damaged one, which nothing is to be read from
            continue
    names = dict.fromkeys(str(path.relative_to(folder)) for path in others if path not in files)
    if names:
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        notes.append(f"read {files[0].name}; not read: {', '.join([*names][:_NAMED])}{rest}")
