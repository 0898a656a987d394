"""Published weights in files of torch.save, read without running anything, and copied by name."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.errors import MayaError

# From torch.load, for a file that is not torch's, or holds other things than tensors.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    RuntimeError,
)
_WEIGHT_NORMS = {
    ".weight_g": ".weight_v",
    ".parametrizations.weight.original0": ".parametrizations.weight.original1",
}


def read_torch(path: Path) -> Any:
    """The content of a file of torch.save: tensors, numbers, texts, and lists and dictionaries of them.
    Raises MayaError for a file that is missing or damaged, or holds objects, which could run code."""
    if not path.is_file():
        raise MayaError(f"there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise MayaError(
            f"{path} is no file of weights that torch can read safely ({type(error).__name__})"
        ) from None


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name out of `read_torch`, also where they lie under "model" or "state_dict". Raises
    MayaError for a file without tensors."""
    for group in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(group), Mapping):
            content = content[group]
    is_state = isinstance(content, Mapping) and all(isinstance(x, Tensor) for x in content.values())
    if not is_state or not content:
        raise MayaError(f"{path} holds no state dict: save the model's own, with tensors by name")
    return {str(name).removeprefix("module."): x for name, x in content.items()}


def without_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights g · v / |v| in place of g and v (Salimans & Kingma 2016), whose norm is over all dimensions in
    which g has size 1. Both spellings of torch are read."""
    out = dict(tensors)
    for name in tensors:
        for end, other in _WEIGHT_NORMS.items():
            stem = name.removesuffix(end)
            if stem != name and stem + other in tensors:
                g, v = out.pop(name).float(), out.pop(stem + other).float()
                over = [i for i, size in enumerate(g.shape) if size == 1]
                out[f"{stem}.weight"] = g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True)
    return out


@torch.no_grad()
def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Copy tensors into a module by its names, in place; LoRA may have been added to it. Raises MayaError for
    a tensor that is missing, unexpected, of another shape, or not finite, in a file of `network`."""
    plain = ".parametrizations.weight.original"
    own = {n.replace(plain, ".weight"): x for n, x in module.state_dict().items()
           if plain in n or ".parametrizations." not in n}  # fmt: skip
    if unexpected := sorted(set(tensors) - set(own)):
        raise MayaError(f"{path} has tensors that {network} does not have: {', '.join(unexpected[:3])}")
    for name, tensor in own.items():
        if name not in tensors:
            raise MayaError(f"{path} lacks the weights of {name} in {network}")
        if tensors[name].shape != tensor.shape:
            shapes = f"shape {tuple(tensors[name].shape)}, and {tuple(tensor.shape)} by its settings"
            raise MayaError(f"{path}: {name} of {network} has {shapes}")
        if not bool(tensors[name].isfinite().all()):
            raise MayaError(f"{path}: {name} holds values that are not finite numbers; copy the file again")
        tensor.copy_(tensors[name])
