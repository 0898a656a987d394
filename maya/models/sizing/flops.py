"""Floating point operations of a model: products and convolutions, two for each multiplication.

Whatever is not a product (norms, activations, softmax, the lattice) is left out: it costs time by the bytes
it moves, which the utilisation of the peak rate stands for.
"""

from dataclasses import dataclass

from maya.models.config import SpeechModelConfig, head_context
from maya.models.sizing.encoder import encoder_flops


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations for one utterance, by component: forward, and a training step of forward and backward."""

    forward: dict[str, float]
    training: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.training.values())


def count_frames(cfg: SpeechModelConfig, seconds: float) -> tuple[int, int]:
    """Feature frames and encoder frames of an utterance, at least one."""
    frames = max(1, cfg.features.frames(round(seconds * cfg.features.sample_rate)))
    return frames, max(1, cfg.encoder.subsampled(frames))


def flops(cfg: SpeechModelConfig, seconds: float, tokens: int, *, batch: int = 1) -> Flops:
    """Operations per utterance of `seconds` and `tokens` in a batch, which shares linear_pos.

    Training is three times forward, the gradients of inputs and of weights being a product each; layers that
    are checkpointed run forward once more. Features need no gradient and are the same for all views
    (`HeadConfig.views`) of an utterance; all else works for each. Heads say their own (`HeadConfig.flops`).
    Raises MayaError for a head that cannot be estimated.
    """
    features = cfg.features
    feature_frames, frames = count_frames(cfg, seconds)
    front, layers = encoder_flops(cfg.encoder, feature_frames, batch)
    spectrum = features.n_fft // 2 + 1 if features.n_fft else 0
    forward = {
        "features": 2.0 * (feature_frames + 1) * spectrum * features.num_mels,
        "subsampling": front,
        "encoder layers": layers,
    }
    training = {
        "features": forward["features"],
        "subsampling": 3 * front * cfg.views,
        "encoder layers": (4 if is_checkpointed(cfg) else 3) * layers * cfg.views,
    }
    context = head_context(cfg)
    for name, head in cfg.heads.items():
        if head.weight:
            work = head.flops(name, context, frames, tokens)
            forward |= work.forward
            training |= {part: cfg.views * operations for part, operations in work.training.items()}
    return Flops(forward, training)


def is_checkpointed(cfg: SpeechModelConfig) -> bool:
    """Whether the encoder recomputes its layers in the backward pass."""
    return bool(getattr(cfg.encoder, "activation_checkpointing", False))
