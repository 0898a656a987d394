"""Options of BEATs, and what follows from a published file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig
from maya.encoders.state_files import read_torch
from maya.errors import MayaError
from maya.features import BeatsFbankConfig
from maya.ranges import BelowOne, PosInt

# Names in the "cfg" of a file, and the fields here.
_FIELDS = {
    "input_patch_size": "patch", "embed_dim": "patch_dim", "encoder_embed_dim": "d_model",
    "encoder_layers": "n_layers", "encoder_attention_heads": "heads", "encoder_ffn_embed_dim": "ff_dim",
    "conv_pos": "position_kernel", "conv_pos_groups": "position_groups", "num_buckets": "buckets",
    "max_distance": "max_distance", "deep_norm": "deep_norm", "conv_bias": "patch_bias",
    "dropout": "dropout", "attention_dropout": "attention_dropout",
}  # fmt: skip
# Settings that all published files share; another value is another network.
_FIXED = {"layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True,
          "activation_fn": "gelu"}  # fmt: skip


@config
class BeatsConfig(EncoderConfig):
    """BEATs (Chen et al. 2022, arXiv:2212.09058). The defaults are those of the published models.

    start: the file of the weights that training begins with; empty: random ones. A checkpoint of Maya has all
    weights, and needs no file. patch: frames and mel bins of a patch. A frame of the output is the mean of
    the patches at one time. position_kernel, position_groups: of the convolution that tells positions.
    buckets, max_distance: of the relative positions, in patches. deep_norm: residuals count (2 n_layers)^¼.
    """

    traceless: ClassVar[tuple[str, ...]] = ("heads", "max_distance", "deep_norm")

    kind: Literal["beats"] = "beats"
    start: str = ""
    feat_in: PosInt = 128
    patch: PosInt = 16
    patch_dim: PosInt = 512
    patch_bias: bool = False
    d_model: PosInt = 768
    n_layers: PosInt = 12
    heads: PosInt = 12
    ff_dim: PosInt = 3072
    position_kernel: PosInt = 128
    position_groups: PosInt = 16
    buckets: PosInt = 320
    max_distance: PosInt = 800
    deep_norm: bool = True
    dropout: BelowOne = 0.1
    attention_dropout: BelowOne = 0.1

    @property
    def subsampling_factor(self) -> int:
        return self.patch

    @property
    def bands(self) -> int:
        """Patches at one time."""
        return self.feat_in // self.patch

    def subsampled(self, frames: Any) -> Any:
        """Whole patches only."""
        return frames // self.patch


def beats(source: str | Path, **options: Any) -> tuple[BeatsFbankConfig, BeatsConfig]:
    """The features and the encoder of a published BEATs file (BEATs_iter3_plus_AS2M.pt and others, fine-tuned
    ones too, whose classes are left out). options: of `BeatsConfig`. Raises MayaError for another file."""
    path = Path(source)
    content = read_torch(path)
    values = content.get("cfg") if isinstance(content, Mapping) else None
    if not isinstance(values, Mapping) or "input_patch_size" not in values or "model" not in content:
        raise MayaError(f'{path} is no BEATs file: it has no "cfg" with an input_patch_size, and a "model"')
    for name, value in _FIXED.items():
        # What the original class takes where a file leaves it out is off.
        if values.get(name, "gelu" if name == "activation_fn" else False) != value:
            raise MayaError(
                f"{path}: BEATs with {name}={values.get(name)!r} is not read; published files have {value!r}"
            )
    fields = {ours: values[name] for name, ours in _FIELDS.items() if name in values}
    if "max_distance" not in values:
        fields["max_distance"] = 1280  # of the original class
    features = BeatsFbankConfig()
    return features, BeatsConfig(**{"deep_norm": False} | fields | {"start": str(path)} | options)
