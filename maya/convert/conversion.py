"""A converted model, and the strict conversion of weights."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.report import ConversionReport, some
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.train.checkpoints.checkpoint import Checkpoint, build
from maya.train.heads import read_heads, untrained_names

# From torch.load, for a file that is not torch's, or holds other things than tensors.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    RuntimeError,
)


@dataclass(kw_only=True, slots=True)
class Conversion:
    """A converted model: the checkpoint to save, and a report for the user."""

    checkpoint: Checkpoint
    report: ConversionReport

    def recognizer(self, device: str | torch.device) -> Recognizer:
        """The model, ready to use."""
        device, made = torch.device(device), self.checkpoint
        model = build(made).to(device)
        model.untrained = untrained_names(made)
        return Recognizer(model=model, tokenizer=made.tokenizer, device=device, heads=read_heads(made))


def torch_content(path: Path) -> Mapping[Any, Any]:
    """The mapping that torch saved in a file. Raises MayaError for another file, or one with other objects
    than tensors and plain values, which are not executed."""
    if not path.is_file():
        raise MayaError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise MayaError(
            f"{path} is no file of weights that torch can read safely ({type(error).__name__})"
        ) from None
    if not isinstance(content, Mapping):
        raise MayaError(f"{path} holds no state dict: save the model's own, with tensors by name")
    return content


def strict(
    weights: Mapping[str, Tensor],
    config: SpeechModelConfig,
    path: Path,
    network: str,
    original: Callable[[str, Tensor], tuple[str, Tensor]],
) -> dict[str, Tensor]:
    """The weights, by Maya's names, in the order of a model's state dict.

    original: gives a tensor's name and shape in the file, for errors. network: describes the expected model.
    Raises MayaError for a tensor that is missing, unexpected, of another shape or kind, or not finite.
    """
    with torch.device("meta"):
        expected = SpeechModel(config).state_dict()
    if unexpected := [original(name, weights[name])[0] for name in sorted(set(weights) - set(expected))]:
        raise MayaError(f"{path} has tensors that {network} does not have: {some(unexpected)}")
    if missing := [original(name, t)[0] for name, t in expected.items() if name not in weights]:
        raise MayaError(f"{path} lacks tensors of {network}: {some(missing)}")
    for name, right in expected.items():
        source, tensor = original(name, weights[name])
        if tensor.layout != torch.strided or (right.is_floating_point() and not tensor.is_floating_point()):
            kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise MayaError(f"{path}: {source} is a tensor of {kind}; expected floating point, strided")
        if not bool(tensor.isfinite().all()):
            raise MayaError(
                f"{path}: {source} holds values that are not finite numbers; save the model again"
            )
        if weights[name].shape != right.shape:
            shape, expected_shape = tuple(tensor.shape), tuple(original(name, right)[1].shape)
            raise MayaError(f"{path}: {source} has shape {shape}, but in {network} it has {expected_shape}")
    return {name: weights[name] for name in expected}


def rebuilt(model: SpeechModel, cfg: SpeechModelConfig, state: dict[str, Tensor]) -> SpeechModel:
    """A model of another configuration with these tensors, not copied, and the features of `model`."""
    with torch.device("meta"):
        network = SpeechModel(cfg)
    network.preprocessor = model.preprocessor  # its buffers are in no state dict
    network.load_state_dict(state, assign=True)
    return network.eval()
