"""What saving a checkpoint costs a training: `python -m tools.bench.checkpoints [--every 50] [--rounds 5]`.

Blocks of `--every` real training steps begin with a checkpoint that is written in the background, with one
that is written at once, or with none; the three take turns. Quoted are medians over the rounds, and the
median of the ratios of each round to the block without a checkpoint: of the wall clock, and of the processor
time of all threads, which other programs disturb less and which counts the writing thread, too. "Waits" is
the time that the training itself stands still for a checkpoint.

`--alone` takes no steps between the checkpoints: the processor time of copying and of writing one, which can
be measured beside other programs.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.text.tokenizer import Tokenizer
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints.state import Run, State, save
from maya.train.checkpoints.writer import CheckpointWriter
from maya.train.config import TrainConfig
from maya.train.memory.steps import synthetic
from maya.train.optimizers.optim import make_optimizer
from maya.train.runlog import RunLog
from maya.train.step import Step, train_step
from tools.bench.common import markdown, median_ratio, parser_of

MODES = ("none", "background", "at once")


class _Pieces:
    """Stands for a tokenizer of 100 kB."""

    model_bytes = bytes(100_000)


class Trainer:
    """A model that trains on one synthetic batch, and saves into a folder."""

    def __init__(
        self, cfg: SpeechModelConfig, seconds: float, every: int, folder: Path, threads: int
    ) -> None:
        train = TrainConfig(
            precision="fp32", threads=threads, keep=1, save_every=every, warmup_steps=0, lr=1e-5
        )
        self.experiment = Experiment(name="bench", model=cfg, train=train)
        self.model: SpeechModel = build_model(cfg)
        self.accelerator = make_accelerator(train, cpu=True)
        self.optimizer = make_optimizer(self.model, train)
        self.state, self.every = State(), every
        self.batch = synthetic(1, seconds, int(3 * seconds), cfg.vocab_size)
        self.log = RunLog(folder, main=True)
        pieces: Any = _Pieces()
        tokenizer: Tokenizer = pieces
        self.runs = {
            mode: Run(folder=folder, model=self.model, optimizer=self.optimizer, tokenizer=tokenizer,
                      experiment=self.experiment, log=self.log,
                      writer=CheckpointWriter(background=mode == "background"))
            for mode in MODES
        }  # fmt: skip
        self.tools = Step(self.model, self.optimizer, self.accelerator, folder)

    def block(self, mode: str) -> tuple[float, float, float]:
        """A block of steps after a checkpoint. Returns the seconds of wall clock, of processor time, and of
        waiting for the checkpoint. The file is complete when the block ends."""
        run, cfg = self.runs[mode], self.experiment.train
        began, used, waits = time.perf_counter(), time.process_time(), 0.0
        if mode != "none":
            save(run, self.state)
            waits = time.perf_counter() - began
        for _ in range(self.every):
            train_step(self.tools, [self.batch], cfg, self.state)
            self.state.step += 1
            if self.state.step % cfg.average_every == 0:
                self.state.update_averages(self.model.state_dict())
        before = time.perf_counter()
        run.writer.flush()
        waits += time.perf_counter() - before
        return time.perf_counter() - began, time.process_time() - used, waits


def measure(trainer: Trainer, rounds: int, modes: Sequence[str]) -> list[str]:
    """A table of the modes and of "none". The first round warms up."""
    modes = ("none", *modes)
    blocks: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in modes}
    for number in range(rounds + 1):
        for mode in modes:
            block = trainer.block(mode)
            if number:
                blocks[mode].append(block)
                print(
                    f"round {number}, {mode}: " + ", ".join(f"{value:.2f} s" for value in block), flush=True
                )
    rows = []
    for mode, values in blocks.items():
        wall, used, waits = zip(*values, strict=True)
        base_wall, base_used, _ = zip(*blocks["none"], strict=True)
        step = statistics.median(wall) / trainer.every
        waited = statistics.median(waits)
        ratios = [f"{median_ratio(*pair):.4f}" for pair in ((wall, base_wall), (used, base_used))]
        rows.append([mode, f"{step:.3f}", *ratios, f"{waited:.2f}", f"{waited / trainer.every / step:.2%}"])
    header = ("checkpoint", "s a step", "wall clock, ratio", "processor, ratio", "waits, s", "of step time")
    return markdown(header, rows)


def alone(trainer: Trainer, rounds: int) -> str:
    """The processor time of one checkpoint that is written in the background, medians over the rounds."""
    run, times = trainer.runs["background"], list[tuple[float, float]]()
    train_step(trainer.tools, [trainer.batch], trainer.experiment.train, trainer.state)
    trainer.state.update_averages(trainer.model.state_dict())
    for _ in range(rounds + 1):  # the first makes room in memory
        began, own = time.process_time(), time.thread_time()
        save(run, trainer.state)
        copied = time.thread_time() - own
        run.writer.flush()
        times.append((copied, time.process_time() - began - copied))
    copying, writing = (statistics.median(values) for values in zip(*times[1:], strict=True))
    return f"processor time of a checkpoint: {copying:.2f} s to copy it, {writing:.2f} s to write it"


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--every", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="audio of a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", nargs="+", choices=MODES[1:], default=MODES[1:])
    parser.add_argument(
        "--preset", choices=("tiny", "large"), default="large", help="large: 114 M parameters"
    )
    parser.add_argument("--alone", action="store_true", help="only what a checkpoint takes, without training")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args(argv)
    cfg = with_vocabulary(getattr(presets, args.preset)(), 1024, ("en",))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        trainer = Trainer(cfg, args.seconds, args.every, Path(name), args.threads)
        size = count_parameters(trainer.model) / 1e6
        lines = [alone(trainer, args.rounds)] if args.alone else measure(trainer, args.rounds, args.modes)
        trainer.log.close()
        files = [p.stat().st_size / 1e9 for p in Path(name).glob("checkpoints/*.pt")]
    print(f"{size:.0f} M parameters, {max(files):.2f} GB every {args.every} steps of {args.seconds:g} s")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
