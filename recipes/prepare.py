"""Stage 1: a corpus folder → validated, split tables."""

from pathlib import Path

from maya.config import to_dict
from maya.data.folder import describing_files
from maya.data.prepare import prepare_corpus
from maya.data.table import PARTS, part_path
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, digest, is_done, mark_done, stamp


def prepare(experiment: Experiment, corpus: Path, out: Path, *, force: bool = False) -> None:
    """Validate the corpus in `corpus`, split it and write {train,dev,test}.parquet into `out`."""
    if not corpus.is_dir():
        raise MayaError(
            f"{corpus} is not a folder; give --corpus a folder with manifest.jsonl, metadata.csv, wav + txt "
            "or another of the forms the README lists"
        )
    inputs = {
        "corpus": str(corpus.resolve()),
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
    """What a corpus holds: the bytes of its manifests, and sizes and times of the tars beside them, to which
    cuts are bound; without a manifest the names, sizes and times of its files."""
    manifests = describing_files(corpus)
    if manifests:
        contents = content(manifests[0])  # of a single one, as ever: stages done before stay done
        if len(manifests) > 1:
            contents = digest({str(path.relative_to(corpus)): content(path) for path in manifests})
        tars = sorted([*corpus.glob("*.tar"), *corpus.glob("*/*.tar")])
        return digest({"manifest": contents, "tars": [stamp(tar) for tar in tars]}) if tars else contents
    files = sorted(p for p in corpus.rglob("*") if p.is_file())
    return digest({str(p.relative_to(corpus)): stamp(p) for p in files})
