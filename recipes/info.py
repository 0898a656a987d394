"""Describe a checkpoint."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maya.config import leaves, to_dict
from maya.decode.head_choice import TrainedHeads
from maya.encoders import LaCT
from maya.errors import MayaError
from maya.heads.language_model import SpeechLLMConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, count_parameters
from maya.models.text_heads import Head
from maya.recipes.arguments import add_checkpoint
from maya.recipes.convert import open_checkpoint
from maya.recipes.experiment_file import import_recorded
from maya.train.checkpoint import Checkpoint, find_checkpoint
from maya.train.heads import noted_steps, read_heads

_WIDTH = 12  # of the names in the left column
# What tells one encoder of a kind from another, in the order of the line.
_ENCODER_FIELDS = (
    *("n_layers", "layers", "d_model", "dims", "n_heads", "heads", "subsampling_factor", "order"),
    *("chunk", "window", "causal", "att_context_size"),
)


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    p.add_argument("--all", action="store_true", help="also print every option of the model and the notes")
    p.add_argument("--json", action="store_true", help="print everything as JSON, for programs")


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    info(args.checkpoint, whole=args.all, as_json=args.json)


def info(path: Path, *, whole: bool = False, as_json: bool = False) -> None:
    """Print what a checkpoint or a `.nemo` archive is: a line for each of its parts. The weights are not
    copied into a model, and the language model of a speech LLM is not needed.

    whole: print the notes and every field of the model configuration, too. as_json: all of it as JSON.
    """
    checkpoint, file = open_checkpoint(path), find_checkpoint(path)
    if as_json:
        print(json.dumps(_for_programs(checkpoint, file), ensure_ascii=False, indent=1))
        return
    for name, text in _lines(checkpoint, file).items():
        print(f"{name:<{_WIDTH}}{text}")
    if whole:
        for name, value in leaves(checkpoint.model_config):
            print(f"model.{name} = {json.dumps(value, ensure_ascii=False)}")
        for name, value in checkpoint.notes.items():
            print(f"notes.{name} = {json.dumps(value, ensure_ascii=False)}")
    else:
        print("add --all for every option of the model, --json for programs")


def describe_stream(encoder: LaCT) -> str:
    """How much a stream has to keep, or why there can be none."""
    try:
        return encoder.initial_state(1).describe()
    except MayaError as error:
        return str(error)


def _for_programs(checkpoint: Checkpoint, file: Path) -> dict[str, Any]:
    cfg = checkpoint.model_config
    return {
        "file": str(file),
        "model": _kind(cfg),
        "step": checkpoint.step,
        "parameters": _parameters(checkpoint),
        "vocabulary": checkpoint.tokenizer.vocab_size,
        "languages": list(cfg.languages),
        "frame_seconds": _frame_seconds(cfg),
        "notes": checkpoint.notes,
        "model_config": to_dict(cfg),
    }


def _lines(checkpoint: Checkpoint, file: Path) -> dict[str, str]:
    """The text of each line by its name, in order."""
    cfg, notes = checkpoint.model_config, checkpoint.notes
    parameters = _parameters(checkpoint)
    parts = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    features = cfg.features
    mels = f"{features.num_mels} mel bins, {features.sample_rate} Hz, a frame every {features.hop_ms:g} ms"
    lines = {
        "file": str(file),
        "model": _kind(cfg),
        "step": str(checkpoint.step),
        "parameters": f"{sum(parameters.values()):,} ({parts})",
        "features": f"{features.kind}: {mels}",
        "encoder": _encoder(cfg.encoder),
        "frame": f"{_frame_seconds(cfg) * 1000:.0f} ms",
    }
    lines |= _llm_lines(cfg) if isinstance(cfg, SpeechLLMConfig) else _hybrid_lines(cfg)
    end = "" if isinstance(cfg, SpeechLLMConfig) else " and a blank"
    lines["vocabulary"] = f"{checkpoint.tokenizer.vocab_size} pieces{end}"
    lines["languages"] = " ".join(cfg.languages) or "not given"
    if cfg.encoder.kind == "lact":
        lines["stream"] = describe_stream(LaCT(cfg.encoder))
    scores = notes.get("valid") or {}
    if shown := [f"{name} {scores[name]:.3f}" for name in ("wer", "cer", "loss") if name in scores]:
        lines["dev"] = ", ".join(shown)
    heads = read_heads(checkpoint, file)
    if heads.heads:
        lines["heads"] = _heads(heads, noted_steps(checkpoint))
    if notes.get("untrained"):
        lines["untrained"] = ", ".join(notes["untrained"])
    for name, value in notes.items():
        if isinstance(value, (str, int, float)) and name not in lines:
            lines[name] = str(value)
    return lines


def _heads(heads: TrainedHeads, steps: Mapping[Head, Mapping[str, int]]) -> str:
    """Each head, by how many steps it was trained, and its CER on dev where known."""
    texts = []
    for head in heads.heads:
        facts = [f"{steps[head]['steps']} steps"] if steps[head] else []
        facts += [f"CER {100 * heads.dev[head]['cer']:.2f} % on dev"] if head in heads.dev else []
        facts = facts if head in heads.trained else ["not trained"]
        texts.append(f"{head} ({', '.join(facts)})" if facts else head)
    return ", ".join(texts)


def _kind(cfg: SpeechModelConfig | SpeechLLMConfig) -> str:
    """The encoder and the heads in a few words."""
    if isinstance(cfg, SpeechLLMConfig):
        return f"{cfg.encoder.kind} with a language model as decoder"
    heads: list[str] = [cfg.transducer] if cfg.transducer != "none" else []
    heads += ["ctc"] if cfg.ctc_weight > 0 else []
    heads += ["attention decoder"] if cfg.attention_weight > 0 else []
    return f"{cfg.encoder.kind} with {', '.join(heads)}"


def _encoder(cfg: Any) -> str:
    values = to_dict(cfg)
    named = [
        f"{name} {json.dumps(values[name]).replace(' ', '')}" for name in _ENCODER_FIELDS if name in values
    ]
    weights = ["fast weights"] if values.get("fast_weights") else []
    return f"{cfg.kind}: " + ", ".join(named + weights)


def _hybrid_lines(cfg: SpeechModelConfig) -> dict[str, str]:
    lines = {}
    if cfg.transducer != "none":
        durations = f", durations {' '.join(map(str, cfg.durations))}" if cfg.transducer == "tdt" else ""
        lines["transducer"] = (
            f"{cfg.transducer}{durations}, {cfg.predictor.kind} predictor of {cfg.predictor.hidden}, "
            f"joint of {cfg.joint.hidden}"
        )
    if cfg.ctc_weight > 0:
        lines["ctc"] = f"weight {cfg.ctc_weight:g}" + (
            f", CR-CTC {cfg.cr_ctc_weight:g}" * (cfg.cr_ctc_weight > 0)
        )
    if cfg.attention_weight > 0:
        decoder = cfg.attention_decoder
        lines["attention"] = f"weight {cfg.attention_weight:g}, {decoder.layers} layers of {decoder.dim}"
    tells = ["an embedding"] * cfg.language_embedding + ["identification"] * (cfg.language_id_weight > 0)
    if tells:
        lines["language"] = " and ".join(tells)
    return lines


def _llm_lines(cfg: SpeechLLMConfig) -> dict[str, str]:
    return {
        "llm": f"{cfg.llm} (its own weights are not in this file)",
        "projector": f"{cfg.stack} encoder frames a position, hidden width {cfg.projector_hidden}",
        "lora": f"rank {cfg.lora.rank} of {' '.join(cfg.lora.targets)}" if cfg.lora.rank else "none",
        "prompt": json.dumps(cfg.prompt, ensure_ascii=False),
    }


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """How many numbers are learnt in each part of the file."""
    cfg = checkpoint.model_config
    with torch.device("meta"):
        if isinstance(cfg, SpeechModelConfig):
            model = SpeechModel(cfg)
            counts = {name: count_parameters(child) for name, child in model.named_children()}
            return {name: count for name, count in counts.items() if count}
        counts = {"encoder": count_parameters(cfg.encoder.build())}
    for name, tensor in checkpoint.weights.items():
        if name.startswith("projector."):
            counts["projector"] = counts.get("projector", 0) + tensor.numel()
        elif ".lora_" in name:
            counts["lora"] = counts.get("lora", 0) + tensor.numel()
    return counts


def _frame_seconds(cfg: SpeechModelConfig | SpeechLLMConfig) -> float:
    return cfg.features.hop_ms / 1000 * cfg.encoder.subsampling_factor
