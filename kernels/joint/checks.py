"""Checks of the arguments of a loss with a fused joint."""

from torch import Tensor

from maya.kernels.checks import Transcripts, check_targets, check_tensor
from maya.kernels.joint.forms import check_form
from maya.kernels.joint.rows import ACTIVATIONS, JointSettings, OutputLayer


def check_joint(
    op: str, f: Tensor, g: Tensor, layer: OutputLayer, targets: Tensor, f_lens: Tensor, target_lens: Tensor,
    settings: JointSettings,
) -> Transcripts:  # fmt: skip
    """Checks all arguments; raises ValueError that names the argument.

    The parameters may have another float dtype than f and g (fp32 masters beside bf16 activations). See
    `check_targets` for where targets and lengths may be.
    """
    check_tensor(op, "f", f, (None, None, None))
    batch, size, hidden = f.shape
    check_states(op, "g", g, "f", f, hidden)
    check_tensor(op, "weight", layer.weight, (None, hidden), like=f)
    if layer.bias is not None:
        check_tensor(op, "bias", layer.bias, layer.weight.shape[:1], like=f)
    if layer.duration_weight is not None:
        check_tensor(op, "duration_weight", layer.duration_weight, (None, hidden), like=f)
        if layer.duration_bias is not None:
            check_tensor(op, "duration_bias", layer.duration_bias, layer.duration_weight.shape[:1], like=f)
    if settings.activation not in ACTIVATIONS:
        raise ValueError(f"{op}: unknown activation {settings.activation!r}; use one of {ACTIVATIONS}")
    if not 0 <= settings.dropout < 1:
        raise ValueError(f"{op}: dropout must lie in [0, 1), not {settings.dropout}")
    if not settings.eps >= 0:
        raise ValueError(f"{op}: eps must not be negative, not {settings.eps}")
    check_form(op, settings.form)
    lens = {"f_lens": f_lens, "target_lens": target_lens}
    return check_targets(
        op, f, targets, lens, (batch, size, g.shape[1], layer.weight.shape[0]), settings.blank
    )


def check_states(op: str, name: str, states: Tensor, frames_name: str, frames: Tensor, channels: int) -> None:
    """Checks the predictor's side, (B, U+1, channels), against the encoder's (B, S, channels)."""
    check_tensor(op, name, states, (frames.shape[0], None, channels), like=frames)
    if states.dtype != frames.dtype:
        raise ValueError(f"{op}: {name} is {states.dtype}, but {frames_name} is {frames.dtype}")
    if states.shape[1] < 1:
        raise ValueError(f"{op}: {name} must have U + 1 states, at least 1, not 0")
