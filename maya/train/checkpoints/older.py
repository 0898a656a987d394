"""Checkpoints of Maya 0.2 and before: one flat configuration for a hybrid model or a speech LLM, and other
names of weights. `upgraded` gives the present form, from which everything works but a resume."""

import json
from pathlib import Path
from typing import Any

from maya.config import from_dict, to_dict
from maya.heads import LanguageModelConfig
from maya.heads.lora import LoraConfig
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import HybridOptions

FORMAT = "maya-checkpoint-1"
LLM = "llm"  # the name of a speech LLM's head

# The beginnings of names in a state dict: those of Maya 0.2, and the present ones.
HYBRID_NAMES = {
    "decoder": "heads.transducer.decoder",
    "joint": "heads.transducer.joint",
    "simple_joint": "heads.transducer.simple_joint",
    "ctc_decoder": "heads.ctc",
    "attention_decoder": "heads.attention",
    "language_head": "heads.language",
}
LLM_NAMES = {name: f"heads.{LLM}.{name}" for name in ("projector", "lm", "lm_digest")}


def upgraded(payload: dict[str, Any], vocab_size: int, path: Path) -> dict[str, Any]:
    """The content of a checkpoint file in the present form. vocab_size: of its tokenizer. `path` leads to the
    run's config.json, which a file for inference needs for the schedule of CTC."""
    saved, training = payload["model_config"], payload.get("training")
    experiment = (training or {}).get("experiment") or _saved_experiment(path)
    names = LLM_NAMES if "llm" in saved else HYBRID_NAMES
    model = _llm(saved, vocab_size, experiment) if "llm" in saved else _hybrid(saved, experiment)
    if training and "average" in training:
        average = training["average"]
        training = training | {"average": average | {"mean": renamed(average["mean"], names)}}
    return payload | {
        "model_config": to_dict(model),
        "weights": renamed(payload["weights"], names),
        "notes": _notes(payload["notes"], model, experiment, payload["step"]),
        "training": training,
    }


def renamed(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A state dict with other beginnings of its names; the others stay."""

    def new(name: str) -> str:
        first, dot, rest = name.partition(".")
        return names.get(first, first) + dot + rest

    return {new(name): value for name, value in state.items()}


def _hybrid(saved: dict[str, Any], experiment: dict[str, Any]) -> SpeechModelConfig:
    options = experiment.get("train", {})
    schedule = {name: options.get(name, 0) for name in ("ctc_first", "ctc_ramp")}
    return from_dict(HybridOptions, saved | schedule).model_config()


def _llm(saved: dict[str, Any], vocab_size: int, experiment: dict[str, Any]) -> SpeechModelConfig:
    head = LanguageModelConfig(
        **{name: saved[name] for name in ("llm", "stack", "projector_hidden", "prompt")},
        precision=saved["llm_precision"],
        checkpointing=saved["llm_checkpointing"],
        lora=from_dict(LoraConfig, saved["lora"]),
        tokens_per_second=experiment.get("decode", {}).get("tokens_per_second", 16.0),
    )
    shared = ("features", "noise", "specaugment", "encoder", "languages")
    cfg = from_dict(SpeechModelConfig, {name: saved[name] for name in shared} | {"vocab_size": vocab_size})
    cfg.heads = {LLM: head}
    return cfg


def _notes(
    notes: dict[str, Any], model: SpeechModelConfig, experiment: dict[str, Any], step: int
) -> dict[str, Any]:
    """The notes with names of heads. Maya 0.1 did not write which heads were trained: the options of the
    experiment give it, together with the step."""
    notes = dict(notes)
    if "untrained" in notes:
        notes["untrained"] = list(dict.fromkeys(map(_head_of, notes["untrained"])))
    elif "trained" not in notes and (options := experiment.get("train")):
        modules = set(options.get("init_modules", ())) if options.get("init_from") else set()
        initial = [name for name in model.heads if _modules(name) <= modules]
        notes["trained"] = [
            name for name, head in model.heads.items() if head.steps_trained(step) or name in initial
        ]
    return notes


def _head_of(module: str) -> str:
    """The head that a module of Maya 0.2 belongs to; another module's own name."""
    name = HYBRID_NAMES.get(module, module)
    return name.split(".")[1] if name.startswith("heads.") else name


def _modules(head: str) -> set[str]:
    """The modules of Maya 0.2 that a head needs for decoding."""
    return {old for old in HYBRID_NAMES if _head_of(old) == head and old != "simple_joint"} or {head}


def _saved_experiment(path: Path) -> dict[str, Any]:
    """config.json of the run that a checkpoint lies in; empty where it is missing or cannot be read."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    try:
        saved = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}
