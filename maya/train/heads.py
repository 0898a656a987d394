"""The heads that a training has trained, and their entries in a checkpoint's notes.

The notes hold `trained`, a list of names, and `heads`: by name the number of steps that trained the head and,
where validated, its scores on dev: `wer` and `cer`, `accuracy`, or `ccc`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from maya.decode.head_choice import TrainedHeads
from maya.errors import MayaError
from maya.heads import HeadConfig
from maya.models.speech_model import SpeechModel
from maya.train.checkpoints.checkpoint import Checkpoint
from maya.train.config import TrainConfig
from maya.train.optimizers.schedule import head_steps

RATES = ("wer", "cer", "accuracy", "ccc")  # the scores of a head on dev
Scores = Mapping[str, Mapping[str, float]]
"""By head its scores on dev, those of RATES that it has."""


def trained_heads(cfg: TrainConfig, model: SpeechModel, step: int) -> tuple[str, ...]:
    """The heads that are trained after `step` optimizer steps: by these steps, or already at the start
    (`model.initial_heads`)."""
    steps = head_steps(cfg, step, model.cfg.heads)
    return tuple(name for name in steps if steps[name] or name in model.initial_heads)


def begins(cfg: TrainConfig, model: SpeechModel, step: int, head: str | None) -> bool:
    """Whether the step after `step` others is the first that trains `head`."""
    return head in trained_heads(cfg, model, step + 1) and head not in trained_heads(cfg, model, step)


def head_notes(
    cfg: TrainConfig, model: SpeechModel, step: int, scores: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The notes of a checkpoint after `step` steps; `scores` are those of a validation at this step."""
    steps = head_steps(cfg, step, model.cfg.heads)
    return notes_of(trained_heads(cfg, model, step), steps, scores_by_head(scores or {}, tuple(steps)))


def notes_of(trained: Sequence[str], steps: Mapping[str, int], dev: Scores) -> dict[str, Any]:
    """`trained` and `heads` as a checkpoint's notes hold them. steps: of each head, where known. dev: scores
    by head."""
    names = dict.fromkeys((*steps, *trained, *dev))
    counts = {name: {"steps": steps[name]} if name in steps else {} for name in names}
    return {
        "trained": list(trained),
        "heads": {name: {**counts[name], **dev.get(name, {})} for name in names},
    }


def scores_by_head(scores: Mapping[str, float], heads: Sequence[str]) -> dict[str, dict[str, float]]:
    """By head its RATES out of a validation's flat scores (`ctc_wer`, `ctc_cer`, `emotion_accuracy`, ...)."""
    by_head = {
        head: {rate: scores[f"{head}_{rate}"] for rate in RATES if f"{head}_{rate}" in scores}
        for head in heads
    }
    return {head: rates for head, rates in by_head.items() if rates}


def describe(scores: Mapping[str, float], heads: Sequence[str]) -> str:
    """A validation in one line: the loss, and the scores of each head in %."""
    rates = [
        " ".join([head, *(f"{_LABELS[name]} {100 * value:.1f}" for name, value in values.items())])
        for head, values in scores_by_head(scores, heads).items()
    ]
    parts = [f"loss {scores['loss']:.3f}"] if "loss" in scores else []
    if rates:
        parts.append("dev: " + " · ".join(rates))
    if unread := int(scores.get("skipped", 0)):
        parts.append(f"({unread} left out)")
    if unknown := int(scores.get("unknown_language", 0)):
        parts.append(f"({unknown} utterances of an unknown language are not averaged)")
    return "  ".join(parts)


_LABELS = {"wer": "WER", "cer": "CER", "accuracy": "accuracy", "ccc": "CCC"}


def head_to_show(model: SpeechModel, trained: Sequence[str], preferred: str | None, dev: Scores) -> str:
    """The head whose output samples show: `preferred` if it is trained, else the text head that is best by
    `dev`, the scores of the last validation. Without a trained text head the first that predicts a label; ""
    where no trained head has an output to show."""
    if preferred in trained:
        return preferred or ""
    text = tuple(name for name in model.cfg.text_heads if name in trained)
    if text:
        scores = {name: dev[name] for name in text if name in dev}
        return TrainedHeads(heads=text, trained=text, dev=scores).best().head
    return next((name for name, head in model.named_heads().items() if head.predicts and name in trained), "")


def read_heads(checkpoint: Checkpoint) -> TrainedHeads:
    """The text heads of a checkpoint, by its notes. Without notes about training every head counts as
    trained; so do the heads of a converted model, except for those noted as new (`untrained`)."""
    heads = tuple(checkpoint.model_config.text_heads)
    trained = [head for head in trained_names(checkpoint) if head in heads]
    noted = checkpoint.notes.get("heads", {})
    dev = {h: {k: noted[h][k] for k in ("wer", "cer")} for h in trained if "cer" in noted.get(h, {})}
    return TrainedHeads(heads=heads, trained=tuple(trained), dev=dev)


def trained_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of all heads of a checkpoint that were trained, by its notes."""
    heads, notes = checkpoint.model_config.heads, checkpoint.notes
    if "trained" in notes:
        return tuple(name for name in heads if name in notes["trained"])
    new = set(notes.get("untrained", ()))
    return tuple(name for name in heads if name not in new)


def untrained_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of all heads of a checkpoint that were never trained, by its notes."""
    trained = trained_names(checkpoint)
    return tuple(name for name in checkpoint.model_config.heads if name not in trained)


def noted_steps(checkpoint: Checkpoint) -> dict[str, int]:
    """By head the number of steps that trained it, where the notes hold it."""
    noted = checkpoint.notes.get("heads", {})
    return {
        name: noted[name]["steps"] for name in checkpoint.model_config.heads if "steps" in noted.get(name, {})
    }


def check_heads_begin(cfg: TrainConfig, model: SpeechModel, steps: int) -> list[str]:
    """A sentence for each head that `steps` steps do not train, unless it is frozen. Raises MayaError where
    they train none."""
    heads, trained = model.cfg.heads, trained_heads(cfg, model, steps)
    if not any(head.steps_trained(steps) for head in heads.values()):
        raise MayaError(f"{steps} steps train no head of this model: raise train.steps")
    idle = {name: head for name, head in heads.items() if name not in trained and name not in cfg.freeze}
    return [_never_trained(name, head, steps) for name, head in idle.items()]


def _never_trained(name: str, head: HeadConfig, steps: int) -> str:
    option = f"model.heads.{name}"
    text = f"the head {name} will not be trained and is not used for decoding: "
    if not head.weight:
        return text + f"{option}.weight is 0; raise it, or remove the head with {option}=none"
    if head.first_step >= steps:
        return text + (
            f"training ends after {steps} steps and {option}.first_step is {head.first_step}; set "
            f"train.steps above {head.first_step}, or {option}.first_step below {steps}"
        )
    return text + f"{option}.ramp_steps gives it no weight in {steps} steps; raise train.steps"
