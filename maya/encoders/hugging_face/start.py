"""The weights that training begins with, out of a folder of Hugging Face, checked name by name."""

from pathlib import Path
from typing import Any

import torch

from maya.encoders.hugging_face.backbones import stock_class, stock_config, without_weight_norm
from maya.encoders.hugging_face.config import HuggingFaceConfig, adapter_languages
from maya.encoders.hugging_face.folder import file_tensors, folder_of, tensor_names
from maya.encoders.hugging_face.four_bit import FourBitLinear
from maya.errors import MayaError

_ADAPTER = "adapter_layer."


@torch.no_grad()
def read_start(model: Any, cfg: HuggingFaceConfig) -> None:
    """Fill transformers' module with the weights of `cfg.folder`, in fp32, in place.

    Raises MayaError for weights that are missing, of another shape, or pickled, and for a language that an
    MMS folder has no adapters of.
    """
    folder = folder_of(cfg.folder)
    tensor_names(folder)  # safetensors, and whole
    cls = stock_class(cfg)
    try:
        loaded, report = cls.from_pretrained(
            folder, config=stock_config(cfg), local_files_only=True, use_safetensors=True,
            dtype=torch.float32,
            key_mapping=dict(cfg.family.mapping) or None, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MayaError(f"{folder}: {cls.__name__} does not take these weights ({first})") from error
    adapted = cfg.values.get("adapter_attn_dim") is not None
    missing = sorted(n for n in report["missing_keys"] if not (adapted and _ADAPTER in n))
    if missing:
        raise MayaError(f"{folder} lacks weights of a {cls.__name__}: {', '.join(missing[:3])}")
    if wrong := sorted(map(str, report.get("mismatched_keys") or ())):
        raise MayaError(f"{folder}: {wrong[0]} has not the shape that config.json gives it")
    without_weight_norm(loaded)
    own = dict(loaded.state_dict())
    if adapted:
        own |= _adapters(folder, cfg.language, {n for n in own if _ADAPTER in n})
    for name, tensor in model.state_dict().items():
        plain = name.replace(".parametrizations.weight.original", ".weight")  # where LoRA was added already
        if plain in own:
            tensor.copy_(own[plain])
    for name, module in model.named_modules():
        if isinstance(module, FourBitLinear):
            module.store(own[f"{name}.weight"])


def _adapters(folder: Path, language: str, wanted: set[str]) -> dict[str, torch.Tensor]:
    """The adapters of an MMS folder for one language, by the names of the base model."""
    path = folder / f"adapter.{language}.safetensors"
    if not path.is_file():
        languages = ", ".join(adapter_languages(folder)[:8]) or "none"
        raise MayaError(f"{folder} has no adapters for language {language!r}; it has {languages}")
    stored = {name.removeprefix("wav2vec2."): tensor.float() for name, tensor in file_tensors(path)}
    if missing := sorted(wanted - set(stored)):
        raise MayaError(f"{path} lacks {missing[0]}; it is of another model")
    return {name: stored[name] for name in wanted}
