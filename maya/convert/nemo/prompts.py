"""NeMo's models with prompts (Nemotron streaming): a fixed prompt becomes part of a bias.

They give each encoder frame, with the prompt as a one-hot vector behind it, to Linear, ReLU, Linear. The
columns of one prompt, added to the first bias, leave a layer on the frame alone: exact, and streams as
before.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from maya.convert.nemo.config import NemoModel
from maya.encoders import FastConformerConfig
from maya.errors import MayaError

WEIGHT, BIAS = "prompt_kernel.0.weight", "prompt_kernel.0.bias"


def folded(
    stored: Mapping[str, Tensor], described: NemoModel, language: str | None, path: Path
) -> dict[str, Tensor]:
    """The state dict for one prompt; sets the encoder's `output_hidden`. Raises MayaError without a prompt,
    for an unknown one, and for a kernel that does not fit."""
    prompts = described.prompts
    name = next((n for n in (language, *_of(language, prompts)) if n in prompts), None)
    if name is None:
        wrong = f"no prompt {language!r}" if language else "prompts"
        raise MayaError(f"{path} has {wrong}: choose --language from {', '.join(prompts)}")
    encoder = described.config.encoder
    assert isinstance(encoder, FastConformerConfig)
    weight, bias, width = stored.get(WEIGHT), stored.get(BIAS), encoder.d_model
    if weight is None or bias is None or weight.ndim != 2 or not 0 <= prompts[name] < weight.shape[1] - width:
        shape = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
        raise MayaError(f"{path}: {WEIGHT} is {shape}, which has no column of prompt {prompts[name]}")
    described.config = replace(described.config, encoder=replace(encoder, output_hidden=len(weight)))
    described.warnings.append(
        f"the prompt is {name!r} for good; texts may hold tags of languages, such as <en-US>"
    )
    fixed = {WEIGHT: weight[:, :width], BIAS: bias + weight[:, width + prompts[name]]}
    return dict(stored) | fixed


def _of(language: str | None, prompts: Mapping[str, int]) -> list[str]:
    """The prompts of a language, "hi-IN" for "hi", in the order of the yaml."""
    wanted = (language or "").lower()
    return [name for name in prompts if wanted in (name.lower(), name.lower().split("-")[0])]
