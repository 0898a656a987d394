"""The lhotse cuts that an experiment names: data.cuts and data.dev_cuts, and their texts."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lhotse.cut import Cut

from maya.data.loading.lhotse_cuts import CutPart, CutSource, CutTranscripts, UnusableCut
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.experiment_file import load_function
from maya.text.sample import TextSample, gather

_TEXTS_READ = 1_000_000  # cuts whose texts a tokenizer is trained on; a CutSet may have no end


def require_data(experiment: Experiment, data: Path | None) -> None:
    """MayaError where a training from a table has no folder of prepared data."""
    if data is None and experiment.data.source == "table":
        raise MayaError(
            "name the folder that `maya prepare` wrote with --data, or set data.source=lhotse and data.cuts"
        )


def training_source(experiment: Experiment) -> CutSource:
    """The cuts of data.cuts."""
    cfg = experiment.data
    return CutSource(parts=_parts(cfg.cuts), weights=cfg.cuts_weights, seed=cfg.plan.seed)


def dev_source(experiment: Experiment) -> CutSource | None:
    """The cuts of data.dev_cuts, None where there are none."""
    return CutSource(parts=_parts(experiment.data.dev_cuts)) if experiment.data.dev_cuts else None


def _parts(names: Sequence[str]) -> tuple[CutPart, ...]:
    return tuple(
        CutPart(name=n, function=load_function(n) if ":" in n and not Path(n).exists() else None)
        for n in names
    )


def dev_cuts(experiment: Experiment, count: int = 0, *, per_language: bool = True) -> list[Cut]:
    """The usable cuts of data.dev_cuts: all, or `count` (of each language), evenly over the list."""
    source, transcripts = dev_source(experiment), CutTranscripts(languages=experiment.languages)
    by_language: dict[str, list[Cut]] = {}
    for cut in source.open() if source is not None else ():
        try:
            by_language.setdefault(transcripts.read(cut)[0] if per_language else "", []).append(cut)
        except UnusableCut:
            continue
    return [cut for cuts in by_language.values() for cut in _spread(cuts, count or len(cuts))]


def _spread(cuts: list[Cut], count: int) -> list[Cut]:
    picks = min(count, len(cuts))
    return [cuts[i * len(cuts) // picks] for i in range(picks)]


def texts_of(experiment: Experiment, source: CutSource) -> tuple[TextSample, array]:
    """A sample of the texts of the first million cuts, and a number for the id of each cut that has one."""
    cfg, transcripts, ids = experiment.tokenizer, CutTranscripts(languages=experiment.languages), array("L")

    def pairs() -> Iterator[tuple[str, str]]:
        for cut in islice(source.open(), _TEXTS_READ):
            try:
                pair = transcripts.read(cut)
            except UnusableCut:
                continue
            ids.append(zlib.crc32(cut.id.encode("utf-8", "surrogateescape")))
            yield pair

    sample = gather(pairs(), lines_per_language=cfg.lines_per_language, seed=cfg.seed)
    if not sample:
        raise MayaError(f"{source.name}: no cut has a text in {', '.join(experiment.languages)}")
    return sample, ids
