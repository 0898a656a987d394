"""What a loss with a fused joint asks of its arguments."""

from torch import Tensor

from maya.kernels.checks import check_targets, check_tensor
from maya.kernels.joint.rows import ACTIVATIONS, JointSettings, OutputLayer


def check_joint(
    op: str,
    f: Tensor,
    g: Tensor,
    layer: OutputLayer,
    targets: Tensor,
    f_lens: Tensor,
    target_lens: Tensor,
    settings: JointSettings,
    eps: float,
) -> tuple[Tensor, list[int], list[int]]:
    """Checks all arguments; returns targets (B, U) int64 with 0 as padding, and both lengths as lists.

    The parameters may be of another float dtype than f and g (fp32 masters beside bf16 activations). Raises
    ValueError that names the argument.
    """
    check_tensor(op, "f", f, (None, None, None))
    batch, size, hidden = f.shape
    check_tensor(op, "g", g, (batch, None, hidden), like=f)
    if g.dtype != f.dtype:
        raise ValueError(f"{op}: g is {g.dtype}, but f is {f.dtype}")
    if g.shape[1] < 1:
        raise ValueError(f"{op}: g must have U + 1 states, at least 1, not 0")
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
    if not eps >= 0:
        raise ValueError(f"{op}: eps must not be negative, not {eps}")
    lens = {"f_lens": f_lens, "target_lens": target_lens}
    shape = (batch, size, g.shape[1], layer.weight.shape[0])
    return check_targets(op, f, targets, lens, shape, settings.blank)
