"""Stage 1: a corpus folder → validated, split tables."""

from pathlib import Path

from maya.config import to_dict
from maya.data.folder import corpus_files, describing_files, is_named
from maya.data.prepare import prepare_corpus
from maya.data.table import PARTS, part_path
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, digest, is_done, mark_done, stamp

_BULKY = (".tar", ".arrow", ".parquet")  # told by size and time


def prepare(experiment: Experiment, corpus: Path, out: Path, *, force: bool = False) -> None:
    """Validate the corpus in `corpus`, split it and write {train,dev,test}.parquet into `out`."""
    if not is_named(corpus) and not corpus.is_dir():
        raise MayaError(
            f"{corpus} is not a folder; give --corpus a folder with manifest.jsonl, metadata.csv, wav + txt "
            "or another of the forms the README lists"
        )
    inputs = {
        "corpus": str(corpus if is_named(corpus) else corpus.resolve()),
        "contents": corpus_identity(corpus),
        "languages": list(experiment.languages),
        "options": to_dict(experiment.prepare),
    }
    there = all(part_path(out, part).is_file() for part in PARTS)
    if is_done(out / "stage.json", inputs) and there and not force:
        print(f"prepare: {out} is up to date")
        return
    (out / "stage.json").unlink(missing_ok=True)  # a kill in between must not leave the old marker
    report = prepare_corpus(corpus, out, languages=experiment.languages, cfg=experiment.prepare)
    print(report.table())
    mark_done(out / "stage.json", inputs)


def corpus_identity(corpus: Path) -> str:
    """What a corpus holds: the bytes of its manifests, and sizes and times of the tars and tables, to which
    rows are bound; without any of these the names, sizes and times of its files."""
    described = describing_files(corpus)
    bulky = [path for path in described if is_named(corpus) or path.suffix in _BULKY]
    manifests = [path for path in described if path not in set(bulky)]
    if not described:
        return digest({str(path.relative_to(corpus)): stamp(path) for path in corpus_files(corpus)})
    if len(manifests) == 1:  # as ever: what is done stays so
        contents = content(manifests[0])
    else:
        contents = digest({_name(path, corpus): content(path) for path in manifests})
    tars = sorted({*bulky, *corpus.glob("*.tar"), *corpus.glob("*/*.tar")})
    return digest({"manifest": contents, "tars": [stamp(tar) for tar in tars]}) if tars else contents


def _name(path: Path, corpus: Path) -> str:
    return str(path.relative_to(corpus)) if path.is_relative_to(corpus) else str(path)
