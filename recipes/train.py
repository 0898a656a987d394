"""Stage 3: cuts and a tokenizer → a trained model. Run it through torchrun, with one process per GPU."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet

from maya.config import to_dict
from maya.data.alignable import ctc_frames
from maya.data.augment import Augment
from maya.data.batch import Batch
from maya.data.loader import EvalLoader, TrainLoader, clear_worker_errors
from maya.data.plan import BatchPlan, Position
from maya.data.utterances import Utterances
from maya.errors import MayaError
from maya.models.hybrid import HybridConfig, HybridModel, build_model, count_parameters, with_vocabulary
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, is_done, mark_done
from maya.recipes.tokenizer import frame_clock, require
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoint import start_from, step_checkpoints
from maya.train.distributed import barrier, rank, world_size
from maya.train.loop import make_accelerator
from maya.train.loop import train as run_loop
from maya.train.state import flat, is_free
from maya.train.validate import Validate, make_validate

_SHARES_OF = 10_000  # utterances, of whose augmentation the shares are reported


def train(experiment: Experiment, data: Path, run: Path, *, cpu: bool = False, force: bool = False) -> None:
    """Train on `data`/cuts_train.jsonl.gz with `run`/tokenizer.model, into `run`; resumes by itself."""
    require(data / "cuts_train.jsonl.gz", "run stage 1 (prepare) first")
    tokenizer = Tokenizer.load(require(run / "tokenizer.model", "run stage 2 (tokenizer) first"))
    options = {k: v for k, v in flat(to_dict(experiment)).items() if not is_free(k)}
    inputs = {
        "data": content(data / "stage.json"),
        "tokenizer": content(run / "tokenizer.model"),
        "options": options,
    }
    if is_done(run / "stage-train.json", inputs) and not force:
        print(f"train: {run} is up to date")
        return
    accelerator = make_accelerator(experiment.train, cpu=cpu)
    main = accelerator.is_main_process
    cuts, languages = load_cuts(data / "cuts_train.jsonl.gz"), experiment.languages
    experiment.model = with_vocabulary(experiment.model, tokenizer.vocab_size, languages)
    cuts, dropped = drop_infeasible(cuts, tokenizer, experiment.model, max(experiment.data.speed_perturb))
    if main:
        run.mkdir(parents=True, exist_ok=True)
        (run / "dropped.jsonl").write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in dropped))
        if dropped:
            print(f"train: {len(dropped)} utterances are too short for their text → {run / 'dropped.jsonl'}")
    if not len(cuts):
        raise MayaError(
            f"{data}: no training utterance is long enough for its text; see {run / 'dropped.jsonl'}"
        )
    torch.manual_seed(experiment.train.seed)  # the same first weights on every rank and in every run
    model = build_model(experiment.model)
    facts = start(model, experiment, data, run, main)
    if main:
        hours = sum(c.duration for c in cuts) / 3600
        millions = [count_parameters(m) / 1e6 for m in (model, model.encoder)]
        sizes = f"{millions[0]:.2f} M parameters (encoder {millions[1]:.2f} M)"
        precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        where = f"{accelerator.num_processes} process(es) on {accelerator.device}, {precision}"
        print(
            f"train: {experiment.name}: {sizes}, {len(cuts)} utterances, {hours:.2f} h, {where}", flush=True
        )
    with clear_worker_errors():
        run_loop(
            experiment, model, tokenizer, train_batches(experiment, cuts, tokenizer, run),
            dev_validation(experiment, data, tokenizer, languages), run, accelerator=accelerator,
            facts=facts,
        )  # fmt: skip
    if main:
        mark_done(run / "stage-train.json", inputs)
    barrier()


def start(model: HybridModel, experiment: Experiment, data: Path, run: Path, main: bool) -> dict[str, Any]:
    """Take over the weights that `train.init_from` names, unless the run has begun; facts for the log."""
    cfg = experiment.train
    facts = {"train_cuts": str(data / "cuts_train.jsonl.gz"), "parameters": count_parameters(model)}
    if cfg.init_from and not step_checkpoints(run):
        taken = start_from(model, Path(cfg.init_from), cfg.init_modules)
        if main:
            modules = ", ".join(cfg.init_modules)
            print(f"train: {taken / 1e6:.2f} M parameters ({modules}) from {cfg.init_from}")
        facts["init_parameters"] = taken
    return facts


def train_batches(
    experiment: Experiment, cuts: CutSet, tokenizer: Tokenizer, run: Path
) -> Callable[[Position], Iterator[tuple[Position, Batch]]]:
    """This rank's batches from a position on, for ever; what cannot be read goes to `run`/skipped.jsonl."""
    cfg = experiment.data
    augment = Augment(cfg.augment) if cfg.augment.on else None
    utterances = Utterances.from_cuts(cuts, tokenizer, experiment.languages)
    plan = BatchPlan(
        utterances.durations,
        utterances.token_counts,
        utterances.langs,
        cfg.plan,
        rank=rank(),
        world_size=world_size(),
        speeds=cfg.speed_perturb,
        ids=utterances.ids,
    )

    if augment is not None and rank() == 0:
        shares = augment.shares(utterances.ids[:_SHARES_OF], epoch=0)
        print("train: audio is " + ", ".join(f"{share:.0%} {name}" for name, share in shares.items()))

    def batches(start: Position) -> Iterator[tuple[Position, Batch]]:
        loader = TrainLoader(
            utterances,
            tokenizer,
            experiment.languages,
            plan,
            num_workers=cfg.num_workers,
            cache_gb=cfg.cache_gb,
            start=start,
            pin_memory=torch.cuda.is_available(),
            augment=augment,
            max_skipped=cfg.max_skipped,
            skip_log=run / "skipped.jsonl",
            timeout_seconds=cfg.timeout_seconds,
        )
        return iter(loader)

    return batches


def dev_validation(
    experiment: Experiment, data: Path, tokenizer: Tokenizer, languages: tuple[str, ...]
) -> Validate:
    """Scores on the dev set (`data.valid_utterances` of each language, evenly over the list)."""
    cuts = load_cuts(data / "cuts_dev.jsonl.gz")
    if experiment.data.valid_utterances:
        cuts = thin(cuts, experiment.data.valid_utterances)
    references = {c.id: c.supervisions[0].text for c in cuts}
    loader = EvalLoader(cuts, tokenizer, languages, max_seconds=experiment.decode.max_seconds,
                        rank=rank(), world_size=world_size())  # fmt: skip
    return make_validate(lambda: loader, references, tokenizer, languages, method=experiment.decode.method)


def load_cuts(path: Path) -> CutSet:
    return CutSet.from_file(require(path, "run stage 1 (prepare) first")).to_eager()


def thin(cuts: CutSet, per_language: int) -> CutSet:
    """At most `per_language` utterances of each language, spread evenly over the list."""
    by_language: dict[str, list] = {}
    for cut in cuts:
        by_language.setdefault(cut.supervisions[0].language, []).append(cut)
    kept = []
    for rows in by_language.values():
        picks = np.linspace(0, len(rows) - 1, min(per_language, len(rows))).round().astype(int)
        kept += [rows[i] for i in picks]
    return CutSet.from_cuts(kept)


def drop_infeasible(
    cuts: CutSet, tokenizer: Tokenizer, cfg: HybridConfig, fastest: float
) -> tuple[CutSet, list[dict]]:
    """Leave out what CTC cannot align: it needs a frame per token and one more between equal neighbours.

    `fastest` is the highest speed an utterance may be played at.
    """
    if cfg.ctc_weight == 0:
        return cuts, []
    kept, dropped = [], []
    clock = frame_clock(cfg, fastest)
    for cut in cuts:
        tokens = tokenizer.encode(cut.supervisions[0].text)
        needed, frames = ctc_frames(tokens), clock.frames(cut.num_samples)
        if frames >= needed:
            kept.append(cut)
        else:
            dropped.append(
                {"id": cut.id, "reason": f"{needed} frames needed for {len(tokens)} tokens, {frames} there"}
            )
    return CutSet.from_cuts(kept), dropped
