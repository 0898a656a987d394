"""Operations and memory of a transducer head on paper. Formulas: kernels/joint/README.md."""

from typing import Any

from maya.heads.cost import HeadFlops, HeadMemory, Terms
from maya.heads.transducer.predictor import PredictorConfig

# Share of lattice cells that the fused loss's backward pass visits: TDT at the start, less than half of it
# later; RNN-T likewise (kernels/joint/README.md, eps 1e-4).
VISITED = {"tdt": 0.14, "rnnt": 0.41, "pruned": 1.0}
_CPU_CHUNK, _CUDA_LOGITS, _CUDA_HIDDEN = 1 << 22, 1 << 30, 1 << 27  # of maya.kernels.joint
_KEPT_CELL, _FORWARD_CELL = 64, 200  # bytes of a lattice cell: for the backward pass; while the lattice runs


def transducer_flops(cfg: Any, dim: int, outputs: int, frames: int, tokens: int) -> HeadFlops:
    """cfg: TransducerConfig; dim: of the encoder; outputs: labels and blank.

    The joint's output layer is one product forward and three on the cells that its backward visits.
    """
    predictor, hidden, states = cfg.predictor, cfg.joint.hidden, tokens + 1
    width = predictor.hidden
    scores = outputs + (len(cfg.durations) if cfg.loss == "tdt" else 0)
    columns = min(states, cfg.pruned.s_range) if cfg.loss == "pruned" else states
    nodes = 2.0 * frames * columns * hidden * scores
    visited = VISITED[cfg.loss]
    if cfg.loss == "tdt":
        visited = (1 - cfg.omega) * visited + cfg.omega * VISITED["rnnt"]
    if isinstance(predictor, PredictorConfig):
        per_state = 8 * width * width * predictor.layers
    else:
        per_state = 4 * width * predictor.context  # a convolution in groups of 4 channels
    forward = {
        "predictor": 2.0 * per_state * states,
        "joint projections": 2.0 * hidden * (dim * frames + width * states),
    }
    if cfg.loss == "pruned":
        forward["simple joint"] = 2.0 * outputs * (dim * frames + width * states)
    training = {name: 3 * value for name, value in forward.items()}
    joint = "joint output and loss"
    return HeadFlops(forward=forward | {joint: nodes}, training=training | {joint: nodes * (1 + 3 * visited)})


def transducer_memory(cfg: Any, outputs: int, *, cuda: bool) -> HeadMemory:
    """cfg: TransducerConfig; outputs: labels and blank."""
    predictor, hidden = cfg.predictor, cfg.joint.hidden
    tensors = 10 * predictor.layers + 4 if isinstance(predictor, PredictorConfig) else 4
    kept = {
        "predictor": Terms(label=4.0 * predictor.hidden * tensors),
        "joint projections": Terms(frame=4.0 * hidden, label=4.0 * hidden),
        "lattice": Terms(node=_KEPT_CELL),
    }
    chunk = _CPU_CHUNK * 4.0 + (2 * _CPU_CHUNK / outputs) * hidden * 4.0
    if cuda:
        chunk = _CUDA_LOGITS + _CUDA_HIDDEN
    weight = (2 if cuda else 1) * 4.0 * hidden * outputs
    gradients = Terms(fixed=chunk + weight, frame=8.0 * hidden, label=8.0 * hidden, node=_KEPT_CELL)
    if cfg.loss == "pruned":  # the lattice of the simple loss is whole, that of the joint is not
        kept["simple joint"] = Terms(frame=2 * 4.0 * outputs, label=2 * 4.0 * outputs)
        gradients += Terms(frame=2 * 4.0 * outputs, label=2 * 4.0 * outputs)
    lattice = Terms(fixed=chunk, node=_FORWARD_CELL)
    moments = {"joint and loss, backward": gradients, "lattice": lattice}
    return HeadMemory(kept=kept, released=frozenset(("lattice",)), moments=moments)
