"""The log line of a training: what the steps since the last line add up to."""

from dataclasses import dataclass, field
from typing import Any

from maya.heads import head_weights
from maya.models.config import ENCODER
from maya.models.speech_model import SpeechModel, part_name
from maya.train.checkpoints.state import Run, State
from maya.train.forecast import Forecast, Pace
from maya.train.health import peak_memory
from maya.train.optimizers import schedule
from maya.train.step import Clock, StepStats

SUMMED = ("loss", "count", "tokens", "utterances", "audio_seconds", "grad_norm")


@dataclass(kw_only=True, slots=True)
class Window:
    """Step statistics summed since the last log line."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)  # seconds that each step waited for data
    clipped: list[str] = field(default_factory=list)  # ScaledAdam's description of each step that it clipped
    largest: tuple[str, float] = ("", 0.0)  # the last step's largest gradient, where it was computed

    def add(self, stats: StepStats | None, waited: float) -> None:
        """Add a step, unless it was left out."""
        if stats is None:
            return
        self.steps += 1
        self.waits.append(round(waited, 4))
        self.clipped += [stats.clipped] if stats.clipped else []
        self.largest = stats.largest
        values = {name: getattr(stats, name) for name in SUMMED}
        values |= {f"{part}_loss": loss for part, loss in stats.parts.items()}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


WORK = ("forward", "backward", "optimizer")


def part_losses(model: SpeechModel, window: Window, step: int) -> dict[str, float]:
    """The mean loss of each part of the heads that have weight at `step`: of text heads per token, of others
    per utterance."""
    weights = head_weights(model.cfg.heads, step)
    return {
        part_name(name, part): window.sums[f"{part_name(name, part)}_loss"]
        / window.sums["tokens" if name in model.cfg.text_heads else "utterances"]
        for name, head in model.named_heads().items()
        for part in head.parts
        if weights[name]
    }


def report(run: Run, state: State, window: Window, clock: Clock, pace: Pace, total: Forecast) -> None:
    """One line on the terminal, one in metrics.jsonl; then a new window. Nothing after steps that were all
    left out."""
    if not window.steps:
        return
    cfg, log, model = run.cfg, run.log, run.model
    sums, last, epoch = window.sums, state.step - 1, schedule.epoch(cfg, state.position)
    step_seconds = {k: v for k, v in clock.seconds.items() if k != "validate"}
    spent = sum(step_seconds.values())
    shares = {f"share_{k}": round(v / spent, 4) for k, v in step_seconds.items()}
    losses = part_losses(model, window, last)
    rates = {"lr": schedule.head_rate(cfg, last, epoch)}
    if ENCODER not in schedule.frozen_throughout(cfg):
        rates["encoder_lr"] = schedule.encoder_rate(cfg, last, epoch)
    values: dict[str, Any] = {
        "epoch": epoch,
        "loss": sums["loss"] / sums["count"],
        **{f"{part}_loss": loss for part, loss in losses.items()},
        **rates,
        **{f"weight_{head}": w for head, w in schedule.changing_weights(model.cfg.heads, last).items()},
        "grad_norm": sums["grad_norm"] / window.steps,
        "seconds_per_step": spent / window.steps,
        "audio_seconds": sums["audio_seconds"],
        "speed": sums["audio_seconds"] / spent,
        "share_work": round(sum(step_seconds.get(k, 0.0) for k in WORK) / spent, 4),
        "data_wait_max": max(window.waits),
        "data_wait": window.waits,
        "infeasible": state.infeasible,
        "clipped": len(window.clipped),
        **peak_memory(),
    }
    if name := window.largest[0]:
        values |= {"largest_gradient": name, "largest_gradient_share": round(window.largest[1], 4)}
    parts = ", ".join(f"{part} {loss:.3f}" for part, loss in losses.items())
    log.metrics("train", state.step, values | shares)
    remaining = (total.total(state) - state.step) * pace.seconds_a_step(state.step)
    log.say(
        f"step {state.step}/{total.shown(state)}  epoch {total.epoch(state)}  loss {values['loss']:.3f} "
        f"({parts})  {_rates(rates)}  "
        f"grad {values['grad_norm']:.2f}  {values['seconds_per_step']:.2f} s/step  "
        f"{values['speed']:.0f}x real time  work {values['share_work']:.0%}  "
        f"mem {values.get('memory_gb', 0.0):.1f} GB  left {_minutes(remaining)}"
    )
    if window.clipped:
        steps = len(window.clipped)
        log.say(f"  {steps} step{'s' * (steps > 1)} clipped, the last: {window.clipped[-1]}")
    window.steps, window.sums, window.waits, window.clipped, clock.seconds = 0, {}, [], [], {}


def _rates(rates: dict[str, float]) -> str:
    heads, encoder = rates["lr"], rates.get("encoder_lr", rates["lr"])
    return f"lr {heads:.2e}" + (f" (encoder {encoder:.2e})" if encoder != heads else "")


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
