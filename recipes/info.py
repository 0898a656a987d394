"""Say what a checkpoint is."""

import json
from pathlib import Path

from maya.config import to_dict
from maya.encoders import LaCT
from maya.errors import MayaError
from maya.models.hybrid import count_parameters
from maya.recipes.convert import open_checkpoint
from maya.train.checkpoint import build, find_checkpoint


def info(path: Path) -> None:
    """Print the step, sizes, vocabulary, languages, notes and model configuration of a checkpoint, or of a
    `.nemo` archive."""
    checkpoint = open_checkpoint(path)
    model = build(checkpoint)
    parts = {
        name: count_parameters(child) for name, child in model.named_children() if count_parameters(child)
    }
    print(f"file        {find_checkpoint(path)}")
    print(f"step        {checkpoint.step}")
    print(f"parameters  {count_parameters(model):,} ({', '.join(f'{k} {v:,}' for k, v in parts.items())})")
    print(f"vocabulary  {checkpoint.tokenizer.vocab_size} pieces and a blank")
    print(f"languages   {' '.join(checkpoint.model_config.languages)}")
    print(f"frame       {model.frame_seconds * 1000:.0f} ms")
    if isinstance(model.encoder, LaCT):
        print(f"stream      {describe_stream(model.encoder)}")
    print(f"notes       {json.dumps(checkpoint.notes, ensure_ascii=False)}")
    print(json.dumps(to_dict(checkpoint.model_config), indent=1, ensure_ascii=False))


def describe_stream(encoder: LaCT) -> str:
    """How much a stream has to keep, or why there can be none."""
    try:
        return encoder.initial_state(1).describe()
    except MayaError as error:
        return str(error)
