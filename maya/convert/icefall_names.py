"""Names of parameters in icefall's Zipformer recipe and here: a rename, tensor for tensor; only the CTC head,
a linear layer there and a 1×1 convolution here, has one axis more."""

from torch import Tensor

# icefall's prefix, ours; the first that fits. The rest of a name is the same on both sides.
PREFIXES = (
    ("encoder_embed.", "encoder.encoder_embed."),
    ("encoder.", "encoder."),
    ("decoder.", "decoder."),
    ("joiner.encoder_proj.", "joint.enc."),
    ("joiner.decoder_proj.", "joint.pred."),
    ("joiner.output_linear.", "joint.joint_net.2."),
    ("simple_am_proj.", "simple_joint.am."),
    ("simple_lm_proj.", "simple_joint.lm."),
    ("ctc_output.1.", "ctc_decoder.decoder_layers.0."),
    ("attention_decoder.decoder.", "attention_decoder."),
)
CTC_WEIGHT = "ctc_decoder.decoder_layers.0.weight"


def from_icefall_name(name: str) -> str | None:
    """Our name of an icefall parameter; None for one of a head we do not have.

    Old checkpoints of distributed training put "module." in front.
    """
    name = name.removeprefix("module.")
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def to_icefall_name(name: str) -> str | None:
    """icefall's name of one of our parameters; None where it has no such thing."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


def from_icefall_tensor(name: str, tensor: Tensor) -> Tensor:
    """A tensor of icefall's in the shape that `name`, ours, has here."""
    return tensor[:, :, None] if name == CTC_WEIGHT and tensor.ndim == 2 else tensor


def to_icefall_tensor(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `from_icefall_tensor`; `name` is ours."""
    return tensor.squeeze(-1) if name == CTC_WEIGHT else tensor
