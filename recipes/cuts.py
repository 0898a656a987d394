"""data.source=lhotse: training from any CutSet, with lhotse's sampler or our plan, without a table."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketingSampler

from maya.data.loading.augment import Augment
from maya.data.loading.batch import Batch
from maya.data.loading.lhotse_cuts import CutTranscripts, UnusableCut
from maya.data.loading.lhotse_loader import (
    CutBatches,
    CutEvalLoader,
    CutLoader,
    CutReader,
    CutStream,
    MakeSampler,
    PlannedCuts,
    StreamedCuts,
)
from maya.data.plan import Position
from maya.data.plan.sampler import PlanSampler
from maya.data.plan.stream import StreamSampler
from maya.data.table.alignable import ctc_frames
from maya.errors import MayaError
from maya.files import sha256, write_json
from maya.recipes.cut_sources import dev_source, training_source
from maya.recipes.experiment import Experiment
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import gather_objects, rank, world_size
from maya.train.training_data import FILE, TrainingData


class Usable:
    """Which cuts a training takes, and their tokens: the same rules as for a table.

    A cut is left out (UnusableCut) if its duration is outside data.min_seconds and max_seconds, its language
    is none of the model's, it has no text, or CTC cannot align its text.
    """

    def __init__(self, experiment: Experiment, tokenizer: Tokenizer) -> None:
        cfg, self._plan, self._sampler = experiment.data, experiment.data.plan, experiment.data.sampler
        self.transcripts = CutTranscripts(languages=experiment.languages)
        self._shortest, self._longest = cfg.min_seconds, cfg.max_seconds or float("inf")
        self._clock, self._fastest = experiment.model.clock, max(cfg.speed_perturb)
        self._aligned = any(head.needs_frames and head.weight for head in experiment.model.heads.values())
        self._encode = lru_cache(maxsize=2)(tokenizer.encode)  # a cut is checked, and then counted

    def check(self, cut: Cut) -> None:
        if not self._shortest <= cut.duration <= self._longest:
            limits = f"{self._shortest:g} to {self._longest:g} s"
            raise UnusableCut(f"{cut.duration:.2f} s, and data takes {limits}")
        tokens = self.tokens(cut)
        cap = self._plan.max_seconds
        if cap is not None and self._plan.too_long == "error" and cut.duration > cap:
            raise MayaError(
                f"cut {cut.id!r} is {cut.duration:.1f} s long, more than data.plan.max_seconds={cap:g}: "
                'raise it, set data.max_seconds to leave such cuts out, or set data.plan.too_long="alone"'
            )
        if self._sampler == "plan" and _in_memory(cut):
            raise MayaError(
                f"cut {cut.id!r} holds its audio in memory, and data.sampler=plan keeps all cuts; name the "
                "Shar folder itself in data.cuts (its audio is read in place), or set data.sampler=stream"
            )
        if not self._aligned:
            return
        needed = ctc_frames(tokens)
        frames = int(self._clock.frames_of(np.array([cut.duration]), self._fastest)[0])
        if frames < needed:
            raise UnusableCut(f"{needed} frames needed for {len(tokens)} tokens, {frames} present")

    def tokens(self, cut: Cut) -> list[int]:
        language, text = self.transcripts.read(cut)
        return self._encode(text, language)

    def count(self, cut: Cut) -> int:
        """Tokens of a cut."""
        return len(self.tokens(cut))

    def language(self, cut: Cut) -> str:
        return self.transcripts.read(cut)[0]


def _in_memory(cut: Cut) -> bool:
    """Whether any recording of a cut is kept in memory; a mixed cut has several."""
    parts = [track.cut for track in getattr(cut, "tracks", ())] or [cut]
    recordings = [part.recording for part in parts if getattr(part, "recording", None) is not None]
    return any(source.type == "memory" for recording in recordings for source in recording.sources)


def open_batches(
    experiment: Experiment, tokenizer: Tokenizer, run: Path, ranks: tuple[int, int] | None = None
) -> CutBatches:
    """The batches of a rank by data.sampler. ranks: (rank, world size), by default this process's.

    The cuts that are left out go to `run`/dropped.jsonl: with a plan all of them, else those of the first
    pass that this process reads.
    """
    cfg, usable = experiment.data, Usable(experiment, tokenizer)
    if cfg.plan.memory.limit != "off":
        raise MayaError("data.plan.memory.limit needs data.source=table; set data.plan.max_seconds instead")
    place = dict(zip(("rank", "world_size"), ranks or (rank(), world_size()), strict=True))
    source = training_source(experiment)
    log_path = run / "dropped.jsonl" if place["rank"] == 0 else None
    if cfg.sampler == "plan":
        stream = CutStream(source, usable.check, log_path=log_path)
        stream.begin(0)
        sampler = PlanSampler(
            CutSet(stream), cfg.plan, tokens=usable.count, language=usable.language,
            speeds=cfg.speed_perturb, **place,
        )  # fmt: skip
        return PlannedCuts(sampler, stream.digest)
    stream = CutStream(source, usable.check, speeds=cfg.speed_perturb, log_path=log_path)
    make_sampler = _streaming(experiment, usable)
    if cfg.sampler == "dynamic_bucketing":
        sample = CutStream(source, usable.check, speeds=cfg.speed_perturb)
        make_sampler = _dynamic_bucketing(experiment, sample)
    return StreamedCuts(stream, make_sampler, **place)


def _streaming(experiment: Experiment, usable: Usable) -> MakeSampler:
    cfg = experiment.data

    def make(cuts: Iterable[Cut], rank: int, ranks: int) -> CutSampler:
        return StreamSampler(
            cuts, cfg.plan, tokens=usable.count, held=cfg.buffer_cuts, rank=rank, world_size=ranks
        )

    return make


def _dynamic_bucketing(experiment: Experiment, sample: Iterable[Cut]) -> MakeSampler:
    """sample: read once to choose the buckets, which are the same for every pass."""
    cfg, plan = experiment.data, experiment.data.plan
    if plan.max_tokens is not None or plan.max_lattice is not None:
        raise MayaError(
            "data.sampler=dynamic_bucketing has no cap on tokens (data.plan.max_tokens, max_lattice): set "
            "them to none, or data.sampler=stream"
        )
    some = sum(1 for _ in islice(sample, max(2, plan.num_buckets)))
    if some < 2:
        raise MayaError("data.sampler=dynamic_bucketing needs two cuts at least; use data.sampler=plan")
    options: dict[str, Any] = {
        "max_duration": plan.max_seconds, "max_cuts": plan.max_utterances, "seed": plan.seed, "shuffle": True,
        "buffer_size": cfg.buffer_cuts, "num_buckets": some,
    }  # fmt: skip
    bins = DynamicBucketingSampler(sample, **options, rank=0, world_size=1).duration_bins

    def make(cuts: Iterable[Cut], rank: int, ranks: int) -> CutSampler:
        return DynamicBucketingSampler(cuts, **options, duration_bins=bins, rank=rank, world_size=ranks)

    return make


def batches_from(
    experiment: Experiment, cuts: CutBatches, tokenizer: Tokenizer, run: Path
) -> Callable[[Position], Iterator[tuple[Position, Batch]]]:
    """This rank's batches from a position on, for ever; what cannot be read goes to `run`/skipped.jsonl."""
    cfg, rate = experiment.data, experiment.model.features.sample_rate
    reader = CutReader(
        CutTranscripts(languages=experiment.languages), tokenizer, sample_rate=rate,
        augment=Augment(cfg.augment, rate) if cfg.augment.on else None, may_skip=cfg.max_skipped > 0,
    )  # fmt: skip

    def batches(start: Position) -> Iterator[tuple[Position, Batch]]:
        return iter(CutLoader(
            cuts, reader, start=start, num_workers=cfg.num_workers, pin_memory=torch.cuda.is_available(),
            max_skipped=cfg.max_skipped, skip_log=run / "skipped.jsonl",
            timeout_seconds=cfg.timeout_seconds,
        ))  # fmt: skip

    return batches


def describe_cuts(experiment: Experiment, cuts: CutBatches, run: Path) -> TrainingData:
    """The identity of the training data, alike on every rank: `CutSource.identity`, and with a plan the
    digest of all cuts."""
    facts: list[str] = []
    if rank() == 0:
        dev = dev_source(experiment)
        digest, files = training_source(experiment).identity()
        hours = 0.0
        if isinstance(cuts, PlannedCuts):
            hours, digest = cuts.hours, sha256(f"{digest} {cuts.digest}")
        described = TrainingData(
            digest=digest, table=files, dev=dev.identity()[0] if dev is not None else "",
            utterances=cuts.utterances, hours=round(hours, 6), batches_per_pass=cuts.batches_per_pass,
        )  # fmt: skip
        write_json(run / FILE, asdict(described))
        facts = [json.dumps(asdict(described))]
    return TrainingData.of(json.loads(gather_objects(facts)[0][0]))


def dev_loader(
    experiment: Experiment, cuts: list[Cut], tokenizer: Tokenizer, *, ranks: tuple[int, int] = (0, 1),
    max_skipped: float, skip_log: Path | None = None,
) -> CutEvalLoader:  # fmt: skip
    """Batches to evaluate on, of this rank. ranks: (rank, world size)."""
    reader = CutReader(
        CutTranscripts(languages=experiment.languages), tokenizer, may_skip=max_skipped > 0, stand_in=False,
        sample_rate=experiment.model.features.sample_rate,
    )  # fmt: skip
    return CutEvalLoader(
        cuts, reader, max_seconds=experiment.decode.max_seconds, rank=ranks[0], world_size=ranks[1],
        max_skipped=max_skipped, skip_log=skip_log,
    )  # fmt: skip
