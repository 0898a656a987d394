"""Describe a checkpoint."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maya.config import leaves, to_dict
from maya.decode.head_choice import TrainedHeads
from maya.encoders import EncoderConfig
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.sizing import meta_model, parameters
from maya.recipes.arguments import add_checkpoint
from maya.recipes.convert import open_checkpoint
from maya.recipes.experiment_file import import_recorded
from maya.train.checkpoints.checkpoint import Checkpoint, find_checkpoint
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


def describe_stream(cfg: EncoderConfig) -> str:
    """What a stream of an encoder has to keep, or why it cannot stream."""
    with torch.device("meta"):
        encoder = cfg.build().eval()
        try:
            return encoder.stream(1).describe()
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
        "frame_seconds": cfg.clock.seconds,
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
        "frame": f"{cfg.clock.seconds * 1000:.0f} ms",
    }
    lines |= {name: head.describe() for name, head in cfg.heads.items()}
    if cfg.language_embedding:
        lines["language"] = "an embedding, added to the frames that text heads read"
    lines["vocabulary"] = f"{checkpoint.tokenizer.vocab_size} pieces"
    lines["languages"] = " ".join(cfg.languages) or "not given"
    lines["stream"] = describe_stream(cfg.encoder)
    scores = notes.get("valid") or {}
    if shown := [f"{name} {scores[name]:.3f}" for name in ("wer", "cer", "loss") if name in scores]:
        lines["dev"] = ", ".join(shown)
    heads = read_heads(checkpoint)
    if heads.heads:
        lines["heads"] = _heads(heads, noted_steps(checkpoint))
    if notes.get("untrained"):
        lines["untrained"] = ", ".join(notes["untrained"])
    for name, value in notes.items():
        if isinstance(value, (str, int, float)) and name not in lines:
            lines[name] = str(value)
    return lines


def _heads(heads: TrainedHeads, steps: Mapping[str, int]) -> str:
    """Each text head, by how many steps it was trained, and its CER on dev where it was measured."""
    texts = []
    for head in heads.heads:
        facts = [f"{steps[head]} steps"] if head in steps else []
        facts += [f"CER {100 * heads.dev[head]['cer']:.2f} % on dev"] if head in heads.dev else []
        facts = facts if head in heads.trained else ["not trained"]
        texts.append(f"{head} ({', '.join(facts)})" if facts else head)
    return ", ".join(texts)


def _kind(cfg: SpeechModelConfig) -> str:
    """The encoder and the heads in a few words."""
    heads = [name if name == head.kind else f"{name} ({head.kind})" for name, head in cfg.heads.items()]
    return f"{cfg.encoder.kind} with {', '.join(heads) or 'no heads'}"


def _encoder(cfg: Any) -> str:
    values = to_dict(cfg)
    named = [
        f"{name} {json.dumps(values[name]).replace(' ', '')}" for name in _ENCODER_FIELDS if name in values
    ]
    weights = ["fast weights"] if values.get("fast_weights") else []
    return f"{cfg.kind}: " + ", ".join(named + weights)


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """Numbers that are learnt, by part. A head that comes from another place, such as a language model, is
    not built: the numbers of it that lie in the file are counted."""
    cfg = checkpoint.model_config
    built = cfg.without_places()
    counts = parameters(meta_model(built))
    for name in cfg.heads.keys() - built.heads.keys():
        for key, tensor in checkpoint.weights.items():
            prefix, _, rest = key.partition(f"heads.{name}.")
            if not prefix and tensor.is_floating_point():
                part = f"{name} {'lora' if '.lora_' in key else rest.partition('.')[0]}"
                counts[part] = counts.get(part, 0) + tensor.numel()
    return counts
