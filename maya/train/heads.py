"""Which heads a training has trained, and what its checkpoints say about them.

A checkpoint's notes hold `trained`, a list of heads, and `heads`, by head the number of steps that trained it
and, where validated, its `wer` and `cer` on dev.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.decode.head_choice import TrainedHeads
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.models.text_heads import HEADS, MODULES, NAMES, Head, heads_of, heads_within
from maya.train.checkpoint import Checkpoint
from maya.train.config import TrainConfig
from maya.train.schedule import head_steps


def trained_heads(cfg: TrainConfig, model: SpeechModel, step: int) -> tuple[Head, ...]:
    """The heads of `model` that are trained after `step` optimizer steps: by one of these steps, or already
    at the start (`model.initial_heads`)."""
    steps = head_steps(cfg, step, model.cfg)
    return tuple(head for head in steps if steps[head] or head in model.initial_heads)


def begins(cfg: TrainConfig, model: SpeechModel, step: int, head: Head | None) -> bool:
    """Whether `head` is trained for the first time by the step after `step` others."""
    return head in trained_heads(cfg, model, step + 1) and head not in trained_heads(cfg, model, step)


def head_notes(
    cfg: TrainConfig, model: SpeechModel, step: int, scores: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The notes of a checkpoint after `step` steps; `scores` are those of a validation at this step."""
    steps = {head: {"steps": count} for head, count in head_steps(cfg, step, model.cfg).items()}
    return notes_of(trained_heads(cfg, model, step), steps, scores_by_head(scores or {}))


def notes_of(
    trained: Sequence[Head],
    steps: Mapping[Head, Mapping[str, int]],
    dev: Mapping[Head, Mapping[str, float]],
) -> dict[str, Any]:
    """`trained` and `heads` as a checkpoint's notes hold them, of what `noted_steps` gives and the dev scores
    of each head; empty for a model without such heads."""
    heads = {head: {**count, **dev.get(head, {})} for head, count in steps.items()}
    return {"trained": list(trained), "heads": heads} if heads else {}


def scores_by_head(scores: Mapping[str, float]) -> dict[Head, dict[str, float]]:
    """The `wer` and `cer` of each head out of a validation's flat scores (`ctc_wer`, `ctc_cer`, ...)."""
    return {
        head: {name: scores[f"{head}_{name}"] for name in ("wer", "cer")}
        for head in HEADS
        if f"{head}_wer" in scores
    }


def describe(scores: Mapping[str, float]) -> str:
    """A validation in one line: the loss, and the WER and CER in % of each head that was scored."""
    by_head = scores_by_head(scores)
    rates = [
        f"{head} WER {100 * rate['wer']:.1f} CER {100 * rate['cer']:.1f}" for head, rate in by_head.items()
    ]
    shown = ("loss", "language_accuracy") if by_head else ("loss", "wer", "cer", "language_accuracy")
    parts = [f"{name} {scores[name]:.3f}" for name in shown if name in scores]
    if rates:
        parts.insert(1, "dev: " + " · ".join(rates))
    if left_out := int(scores.get("skipped", 0)):
        parts.append(f"({left_out} left out)")
    if unknown := int(scores.get("unknown_language", 0)):
        parts.append(f"({unknown} utterances of an unknown language are not averaged)")
    return "  ".join(parts)


def head_to_show(
    trained: Sequence[Head], wanted: Head | None, dev: Mapping[Head, Mapping[str, float]]
) -> Head | None:
    """The head that samples are decoded with: `wanted` if it is trained, else the best by `dev`, the scores
    of the last validation. None where the model has no such heads."""
    if not trained or wanted in trained:
        return wanted
    return TrainedHeads(heads=tuple(trained), trained=tuple(trained), dev=dev).best().head


def read_heads(checkpoint: Checkpoint, path: Path | None = None) -> TrainedHeads:
    """The heads of a checkpoint, by its notes.

    Checkpoints of earlier versions have no such notes. Their experiment, from the checkpoint or from
    config.json in the run folder of `path`, then tells with the step what was trained; without it every head
    counts as trained. So do the heads of a converted model, except for those noted as new.
    """
    heads, notes = heads_of(checkpoint.model_config), checkpoint.notes
    dev: dict[Head, dict[str, float]] = {}
    if "trained" in notes:
        trained = [head for head in heads if head in notes["trained"]]
        noted: dict[Head, dict[str, float]] = notes.get("heads", {})
        dev = {h: {k: noted[h][k] for k in ("wer", "cer")} for h in trained if "cer" in noted.get(h, {})}
    elif "untrained" in notes:
        trained = [head for head in heads if not set(MODULES[head]) & set(notes["untrained"])]
    else:
        trained = _trained_by_experiment(checkpoint, heads, path)
    return TrainedHeads(heads=heads, trained=tuple(trained), dev=dev)


def noted_steps(checkpoint: Checkpoint) -> dict[Head, dict[str, int]]:
    """For each head of a checkpoint `steps`, the number of those that trained it; nothing where the notes do
    not tell."""
    noted = checkpoint.notes.get("heads", {})
    heads = heads_of(checkpoint.model_config)
    return {head: {k: v for k, v in noted.get(head, {}).items() if k == "steps"} for head in heads}


def _trained_by_experiment(checkpoint: Checkpoint, heads: tuple[Head, ...], path: Path | None) -> list[Head]:
    saved = (checkpoint.training or {}).get("experiment") or _saved_experiment(path)
    options = (saved or {}).get("train")
    if not options or not isinstance(checkpoint.model_config, SpeechModelConfig):
        return list(heads)
    cfg = TrainConfig(ctc_first=options.get("ctc_first", 0), ctc_ramp=options.get("ctc_ramp", 0))
    steps = head_steps(cfg, checkpoint.step, checkpoint.model_config)
    initial = heads_within(options.get("init_modules", ())) if options.get("init_from") else ()
    return [head for head in heads if steps[head] or head in initial]


def _saved_experiment(path: Path | None) -> dict[str, Any] | None:
    """config.json of the run that a checkpoint lies in, None where there is none or it cannot be read."""
    if path is None:
        return None
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    try:
        saved = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) else None


def check_heads_begin(cfg: TrainConfig, model: SpeechModel, steps: int) -> list[str]:
    """A sentence for each head that `steps` steps do not train. Raises MayaError where they train none."""
    counts = head_steps(cfg, steps, model.cfg)
    trained = trained_heads(cfg, model, steps)
    if counts and not any(counts.values()):
        raise MayaError(f"{steps} steps train no head of this model: raise train.steps")
    return [_never_trained(cfg, model.cfg, head, steps) for head in counts if head not in trained]


def _never_trained(cfg: TrainConfig, model: SpeechModelConfig, head: Head, steps: int) -> str:
    text = f"the {NAMES[head]} will not be trained and is not used for decoding: "
    if head != "attention" and model.attention_weight == 1:
        return text + "model.attention_weight=1 leaves it no weight; set it below 1"
    if head == "transducer" and model.ctc_weight == 1:
        return text + "model.ctc_weight=1 leaves it no weight; set it below 1, or model.transducer=none"
    if head == "transducer":
        return text + (
            f"training ends after {steps} steps and train.ctc_first={cfg.ctc_first} trains CTC alone; "
            f"set train.steps above {cfg.ctc_first}, or train.ctc_first below {steps}"
        )
    return text + f"train.ctc_ramp gives it no weight in {steps} steps; raise train.steps"
