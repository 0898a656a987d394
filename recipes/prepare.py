"""Stage 1: a corpus folder → validated, split cuts."""

from pathlib import Path

from maya.config import to_dict
from maya.data.prepare import prepare_corpus
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, digest, is_done, mark_done, stamp


def prepare(experiment: Experiment, corpus: Path, out: Path, *, force: bool = False) -> None:
    """Validate the corpus in `corpus`, split it and write cuts_{train,dev,test}.jsonl.gz into `out`."""
    if not corpus.is_dir():
        raise MayaError(
            f"{corpus} is not a folder; give --corpus a folder with manifest.jsonl, metadata.csv or wav + txt"
        )
    inputs = {
        "corpus": str(corpus.resolve()),
        "contents": corpus_identity(corpus),
        "languages": list(experiment.languages),
        "options": to_dict(experiment.prepare),
    }
    if is_done(out / "stage.json", inputs) and not force:
        print(f"prepare: {out} is up to date")
        return
    (out / "stage.json").unlink(missing_ok=True)  # a kill in between must not leave the old marker
    report = prepare_corpus(corpus, out, languages=experiment.languages, cfg=experiment.prepare)
    print(report.table())
    mark_done(out / "stage.json", inputs)


def corpus_identity(corpus: Path) -> str:
    """What a corpus holds: the bytes of its manifest, and sizes and times of the tars beside it, to which
    cuts are bound; without a manifest the names, sizes and times of its files."""
    for name in ("manifest.jsonl", "metadata.csv"):
        if (corpus / name).is_file():
            tars = sorted([*corpus.glob("*.tar"), *corpus.glob("*/*.tar")])
            if not tars:
                return content(corpus / name)
            return digest({"manifest": content(corpus / name), "tars": [stamp(tar) for tar in tars]})
    files = sorted(p for p in corpus.rglob("*") if p.is_file())
    return digest({str(p.relative_to(corpus)): stamp(p) for p in files})
