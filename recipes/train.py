"""Stage 3: from data and a tokenizer to a trained model; maya.recipes.launch runs one process a GPU."""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from maya.config import to_dict
from maya.data.loading.augment import Augment
from maya.data.loading.batch import Batch
from maya.data.loading.lhotse_loader import CutEvalLoader
from maya.data.loading.loader import EvalLoader, TrainLoader, clear_worker_errors
from maya.data.plan import BatchPlan, PlanConfig, Position
from maya.data.table.table import Table, part_path
from maya.data.table.token_table import TokenTable, open_tokens, token_path, tokens_of
from maya.data.table.utterances import Utterances
from maya.decode.methods import greedy_method
from maya.errors import MayaError
from maya.models.config import ENCODER, SpeechModelConfig, with_vocabulary
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.recipes import cuts as lhotse_cuts
from maya.recipes.aliases import add_aliases
from maya.recipes.arguments import add_data_and_run, add_experiment, add_force
from maya.recipes.convert import open_checkpoint
from maya.recipes.cut_sources import dev_cuts, require_data, training_source
from maya.recipes.endings import end, note_doing
from maya.recipes.experiment import DataConfig, Experiment, load_experiment
from maya.recipes.experiment_file import own_file, record_file
from maya.recipes.markers import content, is_done, mark_done
from maya.recipes.memory import advice, plan_within_memory
from maya.recipes.tokenizer import require
from maya.recipes.training_texts import bigram_texts, label_counts
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints.checkpoint import start_from, step_checkpoints
from maya.train.checkpoints.lock import locked
from maya.train.checkpoints.state import flat, is_free
from maya.train.config import TrainConfig
from maya.train.distributed import all_reduce_sum, barrier, rank, world_size
from maya.train.failure import OutOfMemory
from maya.train.heads import check_heads_begin, trained_names
from maya.train.learn import choose_learning
from maya.train.loop import Material
from maya.train.loop import train as run_loop
from maya.train.optimizers.schedule import frozen_throughout
from maya.train.samples import Samples
from maya.train.teacher import start_heads
from maya.train.training_data import TrainingData, describe_data
from maya.train.validate import Validate, make_validate
from maya.train.watchdog import LaunchHooks

_SHARES_OF = 10_000  # utterances, of whose augmentation the shares are reported


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p)
    add_aliases(p)
    add_data_and_run(p)
    p.add_argument("--cpu", action="store_true", help="train on the CPU, even if there is a GPU")
    add_force(p)


def run(args: argparse.Namespace) -> None:
    experiment = load_experiment(args.experiment, args.overrides)
    source = own_file(args.experiment)
    train(experiment, args.data, args.run_dir, cpu=args.cpu, force=args.force, source=source)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingInput:
    """The data that a training reads. name: their place. batches: this rank's, from a position on, for ever.
    advice: what to do when a step found no memory."""

    name: str
    described: TrainingData
    batches: Callable[[Position], Iterator[tuple[Position, Batch]]]
    advice: Callable[[OutOfMemory], str]


def train(
    experiment: Experiment,
    data: Path | None,
    run: Path,
    *,
    cpu: bool = False,
    force: bool = False,
    source: Path | None = None,
) -> None:
    """Train on `data`/train.parquet, or with data.source=lhotse on the cuts of data.cuts, with
    `run`/tokenizer.model, into `run`; resumes by itself.

    source: the user's own file that the experiment is from; the run records it, see `record_file`.

    Raises MayaError while another process trains in `run`, and for what
    `maya.train.checkpoints.resume` refuses.
    """
    identity = training_identity(experiment, data)
    tokenizer = load_tokenizer(require(run / "tokenizer.model", "run stage 2 (tokenizer) first"))
    options = {k: v for k, v in flat(to_dict(experiment)).items() if not is_free(k)}
    inputs = identity | {
        "tokenizer": content(run / "tokenizer.model"),
        "options": options,
    }
    if is_done(run / "stage-train.json", inputs) and not force:
        print(f"train: {run} is up to date")
        return
    accelerator = make_accelerator(experiment.train, cpu=cpu)
    with locked(run):
        if accelerator.is_main_process:
            (run / "stage-train.json").unlink(missing_ok=True)  # until it has ended again
            record_file(run, source)
        _train(experiment, data, run, tokenizer, accelerator)
        if accelerator.is_main_process:
            mark_done(run / "stage-train.json", inputs)
        barrier()


def training_identity(experiment: Experiment, data: Path | None) -> dict[str, Any]:
    """The training data as an input of the stage's marker."""
    require_data(experiment, data)
    if data is None or experiment.data.source == "lhotse":
        return {"cuts": training_source(experiment).identity()}
    return {"data": content(data / "stage.json"), "table": Table.open(part_path(data, "train")).digest}


def table_input(
    experiment: Experiment, data: Path, run: Path, tokenizer: Tokenizer, accelerator: Accelerator
) -> TrainingInput:
    """The batches of `data`/train.parquet by our plan."""
    table = Table.open(part_path(data, "train"))
    tokens = shared_tokens(run, table, tokenizer)
    check_labels(experiment.model, table)
    rows, dropped = usable(table, tokens, experiment)
    if accelerator.is_main_process:
        (run / "dropped.jsonl").write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in dropped))
        if dropped:
            print(f"train: {len(dropped)} utterances are left out → {run / 'dropped.jsonl'}")
    if rows is not None and not len(rows):
        raise MayaError(f"{data}: every training utterance is left out; see {run / 'dropped.jsonl'}")
    utterances = Utterances.from_table(table, tokens, experiment.languages, rows)
    plan = batch_plan(experiment, utterances, plan_within_memory(experiment, utterances, run, accelerator))
    return TrainingInput(
        name=str(part_path(data, "train")),
        described=describe_data(data, run, table, utterances, plan.num_batches(0)),
        batches=train_batches(experiment, utterances, tokenizer, run, plan),
        advice=lambda error: advice(experiment, utterances, run, accelerator, error),
    )


def cut_input(experiment: Experiment, run: Path, tokenizer: Tokenizer) -> TrainingInput:
    """The batches of the lhotse cuts of data.cuts, by data.sampler."""
    cuts = lhotse_cuts.open_batches(experiment, tokenizer, run)
    return TrainingInput(
        name=training_source(experiment).name,
        described=lhotse_cuts.describe_cuts(experiment, cuts, run),
        batches=lhotse_cuts.batches_from(experiment, cuts, tokenizer, run),
        advice=str,
    )


def _train(
    experiment: Experiment, data: Path | None, run: Path, tokenizer: Tokenizer, accelerator: Accelerator
) -> None:
    """`train`, in a locked folder."""
    main, languages = accelerator.is_main_process, experiment.languages
    experiment.model = with_vocabulary(experiment.model, tokenizer.vocab_size, languages)
    if data is None or experiment.data.source == "lhotse":
        given = cut_input(experiment, run, tokenizer)
    else:
        given = table_input(experiment, data, run, tokenizer, accelerator)
    described = given.described
    torch.manual_seed(experiment.train.seed)  # the same first weights on every rank and in every run
    model = build_model(experiment.model)
    facts = start(model, experiment, run, main) | {"train_data": given.name}
    start_heads(model, bigram_texts(data, tokenizer), label_counts(data), accelerator.device, open_checkpoint)
    choose_learning(model, experiment.train)
    if data is not None:
        facts["data"] = str(data.absolute())
    warn_of_idle_heads(experiment, model, described.batches_per_pass, main)
    material = Material(
        batches=given.batches,
        validate=dev_validation(experiment, data, tokenizer, languages, skip_log=run / "skipped.jsonl"),
        samples=dev_samples(experiment, data, tokenizer), data=described, facts=facts,
    )  # fmt: skip
    if main:
        sizes = describe_size(model, frozen_throughout(experiment.train))
        precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        where = f"{accelerator.num_processes} process(es) on {accelerator.device}, {precision}"
        print(f"train: {experiment.name}: {sizes}, {described.size}, {where}", flush=True)
        say_without_dev(material.validate)
    failed: OutOfMemory | None = None
    try:
        with clear_worker_errors():
            run_loop(experiment, model, tokenizer, material, run, accelerator, LaunchHooks(end, note_doing))
    except OutOfMemory as error:
        failed = error.with_traceback(None)  # whose frames hold the tensors of the step
        failed.__context__ = None
    if failed is not None:
        del model
        accelerator.free_memory()
        raise MayaError(given.advice(failed))


def describe_size(model: SpeechModel, frozen: Collection[str]) -> str:
    """The number of parameters, of the encoder's, and of those that learn if some do not."""
    model.freeze(frozen)
    total, encoder = count_parameters(model), count_parameters(model.encoder)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shown = f"{total / 1e6:.2f} M parameters (encoder {encoder / 1e6:.2f} M)"
    return shown if learning == total else f"{shown}, of which {learning / 1e6:.2f} M learn"


def check_labels(model: SpeechModelConfig, table: Table) -> None:
    """MayaError for a label that a head needs and no utterance of the table has."""
    for label in model.needs:
        if not any(entry.labels.get(label) for entry in table.entries()):
            heads = " and ".join(name for name, head in model.heads.items() if label in head.needs)
            raise MayaError(
                f"the head {heads} needs the label {label!r}, and no utterance of {table.path} has it; "
                "prepare the data with this label, or remove the head"
            )


def say_without_dev(validate: Validate | None) -> None:
    if validate is None:
        print(
            "train: there is no dev set: nothing is validated and no best.pt is written; `maya average` and "
            "`maya decode` take the newest weights",
            flush=True,
        )


def start(model: SpeechModel, experiment: Experiment, run: Path, main: bool) -> dict[str, Any]:
    """Copy the weights that `train.init_from` names, unless the run has begun; returns facts for the log."""
    cfg = experiment.train
    facts: dict[str, Any] = {"parameters": count_parameters(model)}
    if cfg.init_from and not step_checkpoints(run):
        taken = start_from(model, Path(cfg.init_from), cfg.init_modules, open_checkpoint)
        if main:
            parts = ", ".join(cfg.init_modules)
            print(f"train: {taken / 1e6:.2f} M parameters ({parts}) from {cfg.init_from}")
        facts["init_parameters"] = taken
    if cfg.init_from:
        model.initial_heads = heads_taken_over(cfg, model.cfg.heads, step_checkpoints(run) == [])
    return facts


def heads_taken_over(cfg: TrainConfig, heads: Collection[str], fresh: bool) -> tuple[str, ...]:
    """Those of `heads` that `train.init_from` provides trained: whole, with their encoder, and from a model
    in which they were trained. For a run that is not `fresh` the latter is assumed, until its checkpoint is
    read, because that model may be gone."""
    parts = {part.removeprefix("heads.") for part in cfg.init_modules}
    taken = tuple(name for name in heads if name in parts and ENCODER in parts)
    if not taken or not fresh:
        return taken
    trained = trained_names(open_checkpoint(Path(cfg.init_from)))
    return tuple(name for name in taken if name in trained)


def warn_of_idle_heads(experiment: Experiment, model: SpeechModel, per_pass: int, main: bool) -> None:
    """Print a sentence for each head that this training does not train. Raises MayaError where it trains
    none."""
    cfg, steps = experiment.train, experiment.train.steps
    if cfg.epochs and per_pass and any(head.first_step for head in model.cfg.heads.values()):
        steps = min(steps, cfg.epochs * cfg.passes * per_pass // cfg.accumulate)
    sentences = check_heads_begin(cfg, model, steps)
    for sentence in sentences if main else ():
        print(f"train: warning: {sentence}", flush=True)


def batch_plan(
    experiment: Experiment, utterances: Utterances, plan_config: PlanConfig | None = None
) -> BatchPlan:
    """This rank's plan of the training data. plan_config: in place of the experiment's, where memory was
    measured."""
    cfg = experiment.data
    plan = BatchPlan.of(
        utterances, plan_config or cfg.plan, rank=rank(), world_size=world_size(), speeds=cfg.speed_perturb
    )
    if plan.rows is not None and rank() == 0:
        print(f"train: {plan.rows}")
    return plan


def train_batches(
    experiment: Experiment, utterances: Utterances, tokenizer: Tokenizer, run: Path, plan: BatchPlan
) -> Callable[[Position], Iterator[tuple[Position, Batch]]]:
    """This rank's batches from a position on, for ever; what cannot be read goes to `run`/skipped.jsonl."""
    cfg = experiment.data
    rate = experiment.model.features.sample_rate
    augment = Augment(cfg.augment, rate) if cfg.augment.on else None
    if augment is not None and rank() == 0:
        shares = augment.shares(utterances.ids[:_SHARES_OF], epoch=0)
        print("train: audio is " + ", ".join(f"{share:.0%} {name}" for name, share in shares.items()))

    def batches(start: Position) -> Iterator[tuple[Position, Batch]]:
        loader = TrainLoader(
            utterances,
            tokenizer,
            experiment.languages,
            plan,
            sample_rate=rate,
            num_workers=cfg.num_workers,
            cache_gb=cfg.cache_gb,
            start=start,
            pin_memory=torch.cuda.is_available(),
            augment=augment,
            mixing=cfg.mixtures,
            max_skipped=cfg.max_skipped,
            skip_log=run / "skipped.jsonl",
            timeout_seconds=cfg.timeout_seconds,
        )
        return iter(loader)

    return batches


def dev_rows(table: Table, per_language: int) -> NDArray[np.int64]:
    """The rows to validate on: all, or so many of each language."""
    return thin(table, per_language) if per_language else np.arange(len(table))


def dev_table(data: Path, part: str = "dev") -> Table | None:
    """The table of a part that may be missing or empty, as dev is where a corpus is all for training."""
    path = part_path(data, part)
    if path.is_file() and len(table := Table.open(path)):
        return table.require_true_texts()
    return None


def dev_validation(
    experiment: Experiment,
    data: Path | None,
    tokenizer: Tokenizer,
    languages: tuple[str, ...],
    *,
    part: str = "dev",
    whole: bool = False,
    skip_log: Path | None = None,
) -> Validate | None:
    """Scores on a dev set: on all of it, or on `data.valid_utterances` of each language, evenly over the
    list; None where there is none, or it is empty. With data.source=lhotse it is data.dev_cuts.

    An utterance that cannot be read is left out, up to the share `data.max_skipped` of them, written to
    `skip_log`, and counted in the scores as `skipped`. Raises MayaError for a text head without a greedy
    method.
    """
    count, mixing = 0 if whole else experiment.data.valid_utterances, experiment.data.mixtures
    head = experiment.decoding_head or "auto"
    limits: dict[str, Any] = {"max_skipped": experiment.data.max_skipped, "skip_log": skip_log}
    loader: EvalLoader | CutEvalLoader
    if data is None or experiment.data.source == "lhotse":
        cuts = dev_cuts(experiment, count)
        if not cuts:
            return None
        ranks = (rank(), world_size())
        loader = lhotse_cuts.dev_loader(experiment, cuts, tokenizer, ranks=ranks, **limits)
        references, name = loader.references, ", ".join(experiment.data.dev_cuts)
    else:
        table = dev_table(data, part)
        if table is None:
            return None
        rows = dev_rows(table, count)
        references, name = {entry.id: entry.text for entry in table.entries(rows.tolist())}, str(table.path)
        utterances = Utterances.from_table(table, tokenizer, languages, rows)
        loader = EvalLoader(
            utterances, tokenizer, languages, sample_rate=experiment.model.features.sample_rate, **limits,
            max_seconds=experiment.decode.max_seconds, rank=rank(), world_size=world_size(), mixing=mixing,
        )  # fmt: skip
    for text_head in experiment.model.text_heads.values():
        greedy_method(text_head)  # raises before training where no method decodes it
    validate = make_validate(lambda: loader, references, tokenizer, languages, method=head)
    return counting_left_out(validate, loader, name)


def counting_left_out(validate: Validate, loader: EvalLoader | CutEvalLoader, name: str) -> Validate:
    """`validate`, with the number of utterances that could not be read in its scores, over all ranks, as
    `skipped`. MayaError where none could be read."""

    def counted(model: Any, *args: Any, **options: Any) -> dict[str, float]:
        scores = validate(model, *args, **options)
        (skipped,) = all_reduce_sum([float(len(loader.left_out))], next(model.parameters()).device)
        if skipped >= len(loader.utterances):
            first = f"; the first: {loader.left_out[0].reason}" if loader.left_out else ""
            raise MayaError(f"none of the {skipped:.0f} utterances of {name} can be read{first}")
        scores.update({"skipped": skipped} if skipped else {})
        return scores

    return counted


def dev_samples(experiment: Experiment, data: Path | None, tokenizer: Tokenizer) -> Samples | None:
    """`train.samples` utterances of the dev set, to show the output for while training; None where
    `train.samples_every` is 0, or there is no dev set."""
    languages, count = experiment.languages, experiment.train.samples
    if not experiment.train.samples_every:
        return None
    if data is None or experiment.data.source == "lhotse":
        cuts = dev_cuts(experiment, count, per_language=False)
        dev = lhotse_cuts.dev_loader(
            experiment, cuts, tokenizer, max_skipped=float(experiment.data.max_skipped > 0)
        )
        return Samples(lambda: dev, dev.references, tokenizer) if cuts else None
    if (table := dev_table(data)) is None:
        return None
    rows = spread(table, count)
    references = {entry.id: entry.text for entry in table.entries(rows.tolist())}
    loader = EvalLoader(Utterances.from_table(table, tokenizer, languages, rows), tokenizer, languages,
                        sample_rate=experiment.model.features.sample_rate,
                        max_seconds=experiment.decode.max_seconds,
                        max_skipped=float(experiment.data.max_skipped > 0))  # fmt: skip
    return Samples(lambda: loader, references, tokenizer)


def spread(table: Table, count: int) -> NDArray[np.int64]:
    """The numbers of `count` rows, spread as evenly as possible over the languages and the rows of each."""
    codes, languages = table.codes("language")
    present = [rows for code in range(len(languages)) if len(rows := np.flatnonzero(codes == code))]
    some = np.linspace(0, len(present) - 1, min(count, len(present))).round().astype(np.int64).tolist()
    kept = []
    for number, language in enumerate(some):
        rows = present[language]
        share = min(len(rows), count // len(some) + (number < count % len(some)))
        kept.append(rows[((np.arange(share) + 0.5) * len(rows) / share).astype(np.int64)])
    return np.concatenate([np.zeros(0, np.int64), *kept])


def shared_tokens(run: Path, table: Table, tokenizer: Tokenizer) -> TokenTable:
    """The tokens that stage 2 wrote; where they are of other data, rank 0 writes them again for all."""
    path = token_path(run, "train")
    if rank() == 0:
        tokens_of(path, table, tokenizer)
    barrier()
    return open_tokens(path, table, tokenizer)


def thin(table: Table, per_language: int) -> NDArray[np.int64]:
    """The numbers of at most `per_language` rows of each language, spread evenly over the table."""
    codes, languages = table.codes("language")
    kept = []
    for code in range(len(languages)):
        rows = np.flatnonzero(codes == code)
        picks = np.linspace(0, len(rows) - 1, min(per_language, len(rows))).round().astype(np.int64)
        kept.append(rows[picks])
    return np.concatenate([np.zeros(0, np.int64), *kept])


def usable(
    table: Table, tokens: TokenTable, experiment: Experiment
) -> tuple[NDArray[np.int64] | None, list[dict]]:
    """The numbers of the rows to train on, None for all, and the reasons why the others are left out: they
    are outside `data.min_seconds` and `max_seconds`, or have too few frames for a head."""
    cfg = experiment.data
    rows, dropped = drop_infeasible(table, tokens, experiment.model, max(cfg.speed_perturb))
    outside = outside_limits(table, cfg)
    if not outside.any():
        return rows, dropped
    limits = f"{cfg.min_seconds:g} to {cfg.max_seconds or np.inf:g} s"
    for row in np.flatnonzero(outside).tolist():
        reason = f"{table.durations[row]:.2f} s, and data takes {limits}"
        dropped.append({"id": table.ids[row], "reason": reason})
    rows = np.arange(len(table)) if rows is None else rows
    return rows[~outside[rows]], dropped


def outside_limits(table: Table, cfg: DataConfig) -> NDArray[np.bool_]:
    """Of each row, whether its duration is outside `data.min_seconds` and `max_seconds`."""
    longest = cfg.max_seconds or np.inf
    return (table.durations < cfg.min_seconds) | (table.durations > longest)


def drop_infeasible(
    table: Table, tokens: TokenTable, cfg: SpeechModelConfig, fastest: float
) -> tuple[NDArray[np.int64] | None, list[dict]]:
    """The numbers of the rows that CTC can align, None for all or for a model whose heads do not need it, and
    the reasons why the others are left out: CTC needs a frame per token, and one more between equal
    neighbours.

    `fastest` is the highest speed at which an utterance may be played.
    """
    if not any(head.needs_frames and head.weight for head in cfg.heads.values()):
        return None, []
    frames = cfg.clock.frames_of(table.durations, fastest)
    short = np.flatnonzero(frames < tokens.ctc_frames).tolist()
    if not short:
        return None, []
    dropped = []
    for row in short:
        needed, count = tokens.ctc_frames[row], tokens.counts[row]
        reason = f"{needed} frames needed for {count} tokens, {frames[row]} present"
        dropped.append({"id": table.ids[row], "reason": reason})
    return np.flatnonzero(frames >= tokens.ctc_frames), dropped
