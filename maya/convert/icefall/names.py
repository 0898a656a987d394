"""icefall's names of parameters and Maya's.

Only the weight of the CTC head has another shape: icefall has a linear layer, Maya a 1×1 convolution.
"""

from torch import Tensor

# (icefall's prefix, Maya's), the first match counts. The rest of a name is the same.
PREFIXES = (
    ("encoder_embed.", "encoder.encoder_embed."),
    ("encoder.", "encoder."),
    ("decoder.", "heads.transducer.decoder."),
    ("joiner.encoder_proj.", "heads.transducer.joint.enc."),
    ("joiner.decoder_proj.", "heads.transducer.joint.pred."),
    ("joiner.output_linear.", "heads.transducer.joint.joint_net.2."),
    ("simple_am_proj.", "heads.transducer.simple_joint.am."),
    ("simple_lm_proj.", "heads.transducer.simple_joint.lm."),
    ("ctc_output.1.", "heads.ctc.decoder_layers.0."),
    ("attention_decoder.decoder.", "heads.attention."),
)
CTC_WEIGHT = "heads.ctc.decoder_layers.0.weight"


def from_icefall_name(name: str) -> str | None:
    """Maya's name of a parameter of icefall's; None for a module that Maya does not have.

    Old checkpoints of distributed training have "module." in front.
    """
    name = name.removeprefix("module.")
    for icefall, maya in PREFIXES:
        if name.startswith(icefall):
            return maya + name.removeprefix(icefall)
    return None


def to_icefall_name(name: str) -> str | None:
    """icefall's name of a parameter of Maya's; None if icefall does not have it."""
    for icefall, maya in PREFIXES:
        if name.startswith(maya):
            return icefall + name.removeprefix(maya)
    return None


def from_icefall_tensor(name: str, tensor: Tensor) -> Tensor:
    """A tensor of icefall's in the shape of Maya's parameter `name`."""
    return tensor[:, :, None] if name == CTC_WEIGHT and tensor.ndim == 2 else tensor


def to_icefall_tensor(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `from_icefall_tensor`; `name` is Maya's."""
    return tensor.squeeze(-1) if name == CTC_WEIGHT else tensor
