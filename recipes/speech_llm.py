"""An encoder with a language model as decoder: `maya llm train` and `maya llm decode`.

Data, batches and the loop are those of every experiment; of the stages only the tokenizer is another one,
the language model's own, which `train` writes where stage 2 writes one.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from accelerate import Accelerator

from maya.config import config, to_dict
from maya.data.loading.batch import Batch
from maya.data.loading.loader import EvalLoader, clear_worker_errors
from maya.data.prepare.prepare import PrepareConfig
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.hypothesis import Hypothesis
from maya.errors import MayaError
from maya.models.hybrid import count_parameters
from maya.models.speech_llm import SpeechLLM, SpeechLLMConfig, load_tokenizer
from maya.ranges import Distinct, PosFloat
from maya.recipes.experiment import DataConfig, Experiment, LanguageName
from maya.recipes.markers import audio_identity, checkpoint_content, content, is_done, mark_done
from maya.recipes.train import (
    batch_plan,
    counting_left_out,
    dev_rows,
    dev_samples,
    dev_table,
    say_without_dev,
    shared_tokens,
    start,
    train_batches,
)
from maya.text.languages import LANGUAGES
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoint import find_checkpoint, load_checkpoint
from maya.train.distributed import barrier, rank, world_size
from maya.train.lock import locked
from maya.train.loop import TrainConfig, make_accelerator
from maya.train.loop import train as run_loop
from maya.train.runlog import replacing, write_json
from maya.train.samples import greedy_llm
from maya.train.state import flat, is_free
from maya.train.training_data import describe_data
from maya.train.validate import Validate, make_validate_llm, token_limits


@config
class LLMDecodeConfig:
    """How transcripts are generated, greedily."""

    max_seconds: PosFloat = 120.0  # padded audio per batch
    tokens_per_second: PosFloat = 16.0  # of audio, a transcript's limit beyond 8 tokens

    @property
    def head(self) -> None:
        """No choice of heads, unlike `DecodeConfig.head`."""
        return None


@config
class LLMExperiment:
    """One experiment with a language model as decoder. A file under egs/ returns one from `experiment()`;
    `--set a.b=c` changes its fields."""

    name: str
    languages: Annotated[tuple[LanguageName, ...], Distinct(empty=False)] = tuple(LANGUAGES)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    model: SpeechLLMConfig = field(default_factory=SpeechLLMConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: LLMDecodeConfig = field(default_factory=LLMDecodeConfig)


def train(
    experiment: LLMExperiment, data: Path, run: Path, *, cpu: bool = False, force: bool = False
) -> None:
    """Train encoder, projector and LoRA on `data`/train.parquet, into `run`; resumes by itself."""
    check(experiment)
    table = Table.open(part_path(data, "train"))
    options = {k: v for k, v in flat(to_dict(experiment)).items() if not is_free(k)}
    inputs = {"data": content(data / "stage.json"), "table": table.digest, "options": options}
    if is_done(run / "stage-train.json", inputs) and not force:
        print(f"train: {run} is up to date")
        return
    accelerator = make_accelerator(experiment.train, cpu=cpu)
    with locked(run):
        if accelerator.is_main_process:
            (run / "stage-train.json").unlink(missing_ok=True)  # until it has ended again
        _train(experiment, data, run, table, accelerator)
        if accelerator.is_main_process:
            mark_done(run / "stage-train.json", inputs)
        barrier()


def _train(experiment: LLMExperiment, data: Path, run: Path, table: Table, accelerator: Accelerator) -> None:
    """All of it, in a folder that is locked."""
    main, languages = accelerator.is_main_process, experiment.languages
    experiment.model.languages = languages
    tokenizer = load_tokenizer(experiment.model.llm)
    if main:
        tokenizer.save(run / "tokenizer.model")
    utterances = Utterances.from_table(table, shared_tokens(run, table, tokenizer), languages, None)
    torch.manual_seed(experiment.train.seed)  # the same first weights on every rank and in every run
    model = SpeechLLM(experiment.model)
    hybrid = cast(Experiment, experiment)  # of which these read what both kinds have
    plan = batch_plan(hybrid, utterances)
    described = describe_data(data, run, table, utterances, plan.num_batches(0))
    facts = start(model, hybrid, str(part_path(data, "train")), run, main)
    samples = dev_samples(experiment, data, tokenizer, greedy_llm(experiment.decode.tokens_per_second))
    validate = dev_validation(experiment, data, tokenizer, skip_log=run / "skipped.jsonl")
    if main:
        print(describe(model, experiment, len(utterances), accelerator), flush=True)
        say_without_dev(validate)
    with clear_worker_errors():
        run_loop(
            experiment, model, tokenizer, train_batches(hybrid, utterances, tokenizer, run, plan),
            validate, run, accelerator=accelerator, facts=facts, samples=samples, data=described,
        )  # fmt: skip


def check(experiment: LLMExperiment) -> None:
    """MayaError for what a speech LLM cannot do."""
    if experiment.data.plan.memory.limit != "off":
        raise MayaError("memory is not measured for a language model: set data.plan.memory.limit off")


def describe(model: SpeechLLM, experiment: LLMExperiment, utterances: int, accelerator: Any) -> str:
    """How large it is, and what of it learns."""
    lora = sum(p.numel() for name, p in model.lm.named_parameters() if ".lora_" in name)
    lm = count_parameters(model.lm) - lora
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return (
        f"train: {experiment.name}: encoder {count_parameters(model.encoder) / 1e6:.2f} M, projector "
        f"{count_parameters(model.projector) / 1e6:.2f} M, LoRA {lora / 1e6:.2f} M, language model (frozen) "
        f"{lm / 1e6:.2f} M; {utterances} utterances, {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, {precision}"
    )


def dev_validation(
    experiment: LLMExperiment, data: Path, tokenizer: Tokenizer, *, skip_log: Path | None = None
) -> Validate | None:
    """Scores on the dev set (`data.valid_utterances` of each language, evenly over the list); None without
    one. As in `maya.recipes.train.dev_validation`, what cannot be read is left out and counted."""
    table, languages = dev_table(data), experiment.languages
    if table is None:
        return None
    rows = dev_rows(table, experiment.data.valid_utterances)
    references = {entry.id: entry.text for entry in table.entries(rows.tolist())}
    loader = EvalLoader(
        Utterances.from_table(table, tokenizer, languages, rows), tokenizer, languages,
        sample_rate=experiment.model.features.sample_rate, max_seconds=experiment.decode.max_seconds,
        rank=rank(), world_size=world_size(), max_skipped=experiment.data.max_skipped, skip_log=skip_log,
    )  # fmt: skip
    batches: Callable[[], Iterable[Batch]] = lambda: loader  # noqa: E731
    rate = experiment.decode.tokens_per_second
    validate = make_validate_llm(batches, references, tokenizer, languages, tokens_per_second=rate)
    return counting_left_out(validate, loader, str(table.path))


def decode(
    experiment: LLMExperiment,
    data: Path,
    run: Path,
    *,
    split: str = "test",
    checkpoint: Path | None = None,
    cpu: bool = False,
    force: bool = False,
) -> None:
    """Decode `data`/{split}.parquet into `run`/decode/{split}/hyps.jsonl, which `maya score` takes."""
    table, path = Table.open(part_path(data, split)), find_checkpoint(checkpoint or run)
    if not len(table):
        raise MayaError(f"{data} has no {split} set to decode: {table.path.name} has no rows")
    out, options = run / "decode" / split, to_dict(experiment.decode)
    rows = [table.digest, audio_identity(data, split)]
    inputs = {
        "checkpoint": [str(path), checkpoint_content(path)],
        "llm": experiment.model.llm,
        "data": rows,
        "options": options,
    }
    complete = all((out / name).is_file() for name in ("hyps.jsonl", "decode.json"))
    if is_done(out / "stage.json", inputs) and complete and not force:
        print(f"decode: {out} is up to date")
        return
    model, tokenizer = load(path, llm=experiment.model.llm)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    model.to(device)
    languages = model.cfg.languages
    entries = {entry.id: entry for entry in table.entries()}
    utterances = Utterances.from_table(table, tokenizer, languages)
    loader = EvalLoader(utterances, tokenizer, languages, sample_rate=model.cfg.features.sample_rate,
                        max_seconds=experiment.decode.max_seconds)  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    began, seconds = time.perf_counter(), 0.0
    with replacing(out / "hyps.jsonl") as partial, partial.open("w") as f:
        for batch in loader:
            hyps = transcribe(model, tokenizer, batch.to(device), experiment.decode.tokens_per_second)
            for hyp in hyps:
                entry = entries[hyp.id]
                hyp.language = entry.language
                row = {"ref": entry.text, "speaker": entry.speaker, "duration": entry.duration}
                f.write(json.dumps(asdict(hyp) | row, ensure_ascii=False) + "\n")
            seconds += batch.seconds
    spent = time.perf_counter() - began
    timing = {"audio_seconds": seconds, "seconds": spent, "real_time_factor": spent / seconds}
    write_json(out / "decode.json", {"checkpoint": str(path), "utterances": len(entries)} | timing)
    print(f"decode: {len(entries)} utterances, {seconds / 3600:.2f} h in {spent:.1f} s "
          f"(real-time factor {spent / seconds:.4f}) → {out / 'hyps.jsonl'}")  # fmt: skip
    mark_done(out / "stage.json", inputs)


def load(path: Path, *, llm: str = "") -> tuple[SpeechLLM, Tokenizer]:
    """The model of a checkpoint in evaluation mode, and its tokenizer. `llm` tells where the language model
    lies now, by default where it was in training. MayaError for another kind of checkpoint."""
    loaded = load_checkpoint(path)
    if not isinstance(loaded.model_config, SpeechLLMConfig):
        raise MayaError(f"{path} has no language model as decoder; `maya decode` decodes with it")
    loaded.model_config.llm = llm or loaded.model_config.llm
    model = SpeechLLM(loaded.model_config)
    model.load_state_dict(loaded.weights)
    return model.eval(), loaded.tokenizer


@torch.inference_mode()
def transcribe(
    model: SpeechLLM, tokenizer: Tokenizer, batch: Batch, tokens_per_second: float
) -> list[Hypothesis]:
    """Greedy hypotheses with text and scores; a language model tells no frames."""
    speech, lens = model.project(batch.audio, batch.audio_lens)
    limits = token_limits(batch, tokens_per_second)
    found = model.generate(speech, lens, batch.langs, max_tokens=limits)
    return [
        Hypothesis(
            id=name, tokens=one.tokens, frames=[], durations=[], scores=one.scores,
            text=tokenizer.decode(one.tokens), frame_seconds=model.frame_seconds,
        )
        for one, name in zip(found, batch.ids, strict=True)
    ]  # fmt: skip
