"""Floating point operations of a hybrid model: products and convolutions, two for each multiplication.

Whatever is not a product (norms, activations, softmax, the lattice) is left out: it costs time by the bytes
it moves, which the utilisation of the peak rate stands for.
"""

from dataclasses import dataclass

from maya.encoders.fastconformer import FastConformerConfig
from maya.encoders.subsampling import subsampled_lens
from maya.features import frame_samples
from maya.models.hybrid import HybridConfig
from maya.models.hybrid_config import nemo_parts

# Share of lattice cells that the fused loss's backward pass visits: TDT at the start, less than half of it
# later; RNN-T likewise (kernels/joint/README.md, eps 1e-4).
WHAT = "the arithmetic on paper"
VISITED = {"tdt": 0.14, "rnnt": 0.41, "none": 0.0}


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one utterance, by component: forward, and a training step of forward and backward."""

    forward: dict[str, float]
    training: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.training.values())


def count_frames(cfg: HybridConfig, seconds: float) -> tuple[int, int]:
    """Feature frames and encoder frames of an utterance."""
    samples = round(seconds * cfg.features.sample_rate)
    frames = max(1, samples // frame_samples(cfg.features.hop_ms, cfg.features.sample_rate))
    return frames, subsampled_lens(frames, cfg.encoder.subsampling_factor)


def flops(cfg: HybridConfig, seconds: float, tokens: int, *, batch: int = 1) -> Flops:
    """Operations per utterance of `seconds` and `tokens` in a batch, over which linear_pos is shared.

    Training is three times forward, the gradients of inputs and of weights being a product each; layers that
    are checkpointed run forward once more. The joint's output layer is one product forward and three on the
    cells that its backward visits. The front end, whose input needs no gradient, has none.

    Raises MayaError for parts that are not FastConformer's.
    """
    features, encoder, predictor = nemo_parts(cfg, WHAT)
    feature_frames, frames = count_frames(cfg, seconds)
    states = tokens + 1
    layers = _layer(encoder, frames, batch) * encoder.n_layers
    forward = {
        "features": 2.0 * (feature_frames + 1) * (features.n_fft // 2 + 1) * features.num_mels,
        "subsampling": _subsampling(encoder, feature_frames),
        "encoder layers": layers,
    }
    training = {
        "features": forward["features"],
        "subsampling": 3 * forward["subsampling"],
        "encoder layers": (4 if encoder.activation_checkpointing else 3) * layers,
    }
    if cfg.transducer != "none":
        hidden, width = cfg.joint.hidden, predictor.hidden
        outputs = cfg.vocab_size + 1 + (len(cfg.durations) if cfg.transducer == "tdt" else 0)
        nodes = 2.0 * frames * states * hidden * outputs
        visited = VISITED[cfg.transducer]
        if cfg.transducer == "tdt":
            visited = (1 - cfg.omega) * visited + cfg.omega * VISITED["rnnt"]
        forward["predictor"] = 2.0 * predictor.layers * 8 * width * width * states
        forward["joint projections"] = 2.0 * hidden * (cfg.encoder.d_model * frames + width * states)
        training |= {name: 3 * forward[name] for name in ("predictor", "joint projections")}
        forward["joint output and loss"] = nodes
        training["joint output and loss"] = nodes * (1 + 3 * visited)
    if cfg.ctc_weight > 0:
        forward["ctc head"] = 2.0 * cfg.encoder.d_model * (cfg.vocab_size + 1) * frames
        training["ctc head"] = 3 * forward["ctc head"]
    return Flops(forward, training)


def _layer(enc: FastConformerConfig, frames: int, batch: int) -> float:
    """One conformer layer, whole attention: products with weights, with keys, positions and values."""
    width = enc.d_model
    per_frame = 2.0 * width * width * (4 * enc.ff_expansion + 4 + 3) + 2.0 * width * enc.conv_kernel
    positions = 2.0 * width * width * (2 * frames - 1) / batch
    attention = 2.0 * width * frames * (frames + (2 * frames - 1) + frames)
    return per_frame * frames + positions + attention


def _subsampling(enc: FastConformerConfig, frames: int) -> float:
    channels, bins = enc.subsampling_channels, enc.feat_in
    total = 0.0
    for stage in range(enc.subsampling_factor.bit_length() - 1):
        frames, bins = (frames + 1) // 2, (bins + 1) // 2
        of_cell = 9 * channels + (channels * channels if stage else 0)
        total += 2.0 * of_cell * frames * bins
    return total + 2.0 * channels * bins * enc.d_model * frames
