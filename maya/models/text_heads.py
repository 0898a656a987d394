"""The heads of a hybrid model that write text: their names, their modules, and which of them a model has."""

from collections.abc import Collection
from typing import Any, Literal

from maya.models.hybrid_config import HybridConfig

Head = Literal["transducer", "ctc", "attention"]
HEADS: tuple[Head, ...] = ("transducer", "ctc", "attention")  # without dev scores, the first is preferred
NAMES: dict[Head, str] = {"transducer": "transducer", "ctc": "CTC head", "attention": "attention decoder"}
# The modules that a head needs for decoding, besides the encoder.
MODULES: dict[Head, tuple[str, ...]] = {
    "transducer": ("decoder", "joint"),
    "ctc": ("ctc_decoder",),
    "attention": ("attention_decoder",),
}


def heads_of(cfg: Any) -> tuple[Head, ...]:
    """The heads of a model of this configuration that write text; none unless it is a `HybridConfig`."""
    if not isinstance(cfg, HybridConfig):
        return ()
    present = {
        "transducer": cfg.transducer != "none",
        "ctc": cfg.ctc_weight > 0,
        "attention": cfg.attention_weight > 0,
    }
    return tuple(head for head in HEADS if present[head])


def heads_within(modules: Collection[str]) -> tuple[Head, ...]:
    """The heads whose modules are all among `modules`."""
    return tuple(head for head in HEADS if set(MODULES[head]) <= set(modules))
