"""NeMo's adapters: a LinearAdapter behind each layer of the encoder becomes a module of Maya's.

It has a norm and an activation between its matrices, so it cannot be merged into other weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from maya.convert.nemo.section import Section
from maya.errors import MayaError
from maya.models.adapters import AdapterConfig

LAYER = re.compile(r"encoder\.layers\.(\d+)\.adapter_layer\.(.+)\.module\.(0|1|3)\.(weight|bias)")
ANY = re.compile(r".*\.adapter_layer\.(.+?)\..*")
NAMES = {"0": "norm", "1": "down", "3": "up"}


@dataclass(frozen=True, slots=True)
class EncoderAdapter:
    """Its name in the archive, and Maya's configuration."""

    name: str
    config: AdapterConfig


def read(top: Section, warnings: list[str]) -> EncoderAdapter | None:
    """The adapter that is enabled. Raises MayaError for several, for one of another kind or place."""
    if not isinstance(top.raw("adapters"), dict):
        top.fixed("adapters", None)
        return None
    s = top.section("adapters")
    enabled: EncoderAdapter | None = None
    for key in s:
        if key in ("global_cfg", "adapter_meta_cfg"):
            continue
        a = s.section(key)
        module, _, name = key.rpartition(":")
        if a.raw("enabled", True) is False:
            warnings.append(f"the adapter {name!r} is disabled and left out")
            continue
        if module not in ("", "encoder"):
            raise MayaError(f"{top.path}: adapters.{key} is in the {module}; Maya has those of the encoder")
        target = str(a.raw("_target_", "")).rsplit(".", 1)[-1]
        if target != "LinearAdapter":
            raise MayaError(f"{top.path}: adapters.{key} is a {target}; Maya reads LinearAdapter")
        if enabled is not None:
            raise MayaError(
                f"{top.path}: adapters {enabled.name!r} and {name!r} are both enabled; Maya takes one"
            )
        a.fixed("activation", "swish", "silu")
        a.fixed("norm_position", "pre")
        strategy = a.raw("adapter_strategy")
        kind = str((strategy or {}).get("_target_", "")) if isinstance(strategy, dict) else ""
        if kind and not kind.endswith("ResidualAddAdapterStrategy"):
            raise MayaError(
                f"{top.path}: adapters.{key} is not added to its input, which Maya does not support"
            )
        a.harmless("in_features", "dropout")
        enabled = EncoderAdapter(name, AdapterConfig(type="nemo", rank=a.need("dim", int)))
        a.close()
    return enabled


def renamed(stored: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state dict with the tensors of the adapter `name` under Maya's names, and without those of others,
    which are disabled."""
    weights: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        match, other = LAYER.fullmatch(key), ANY.fullmatch(key)
        if match is not None and match[2] == name:
            key = f"encoder.layers.{match[1]}.norm_out.adapter.{NAMES[match[3]]}.{match[4]}"
        elif other is not None and other[1] != name:
            continue
        weights[key] = tensor
    return weights
