"""Floating point operations of a hybrid model: products and convolutions, two for each multiplication.

Whatever is not a product (norms, activations, softmax, the lattice) is left out: it costs time by the bytes
it moves, which the utilisation of the peak rate stands for.
"""

from dataclasses import dataclass

from maya.encoders import ZipformerConfig
from maya.encoders.conformer.subsampling import subsampled_lens
from maya.encoders.zipformer.front import LOST_FRAMES
from maya.errors import MayaError
from maya.features import FeaturesConfig, LogMelConfig, frame_samples
from maya.heads.transducer import PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.models.sizing.encoder_flops import front_flops, layer_flops

# Share of lattice cells that the fused loss's backward pass visits: TDT at the start, less than half of it
# later; RNN-T likewise (kernels/joint/README.md, eps 1e-4).
WHAT = "the arithmetic on paper"
VISITED = {"tdt": 0.14, "rnnt": 0.41, "pruned": 1.0, "none": 0.0}


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one utterance, by component: forward, and a training step of forward and backward."""

    forward: dict[str, float]
    training: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.training.values())


def count_frames(cfg: SpeechModelConfig, seconds: float) -> tuple[int, int]:
    """Feature frames and encoder frames of an utterance."""
    samples = round(seconds * cfg.features.sample_rate)
    frames = max(1, samples // frame_samples(cfg.features.hop_ms, cfg.features.sample_rate))
    if isinstance(cfg.encoder, ZipformerConfig):
        halved = max(0, (frames - LOST_FRAMES) // 2)
        return frames, max(1, -(-halved // cfg.encoder.output_downsampling))
    return frames, subsampled_lens(frames, cfg.encoder.subsampling_factor)


def check_parts(cfg: SpeechModelConfig) -> None:
    """MayaError for heads of which the arithmetic on paper knows nothing."""
    if cfg.attention_weight:
        raise MayaError(
            f"{WHAT} knows TDT, RNN-T, pruned RNN-T and CTC heads; this model has an attention decoder: let "
            "training measure its memory with data.plan.memory.limit=auto"
        )


def transform_size(features: FeaturesConfig) -> int:
    """Samples of the Fourier transform."""
    if isinstance(features, LogMelConfig):
        return features.n_fft
    return 1 << (frame_samples(features.window_ms, features.sample_rate) - 1).bit_length()


def flops(cfg: SpeechModelConfig, seconds: float, tokens: int, *, batch: int = 1) -> Flops:
    """Operations per utterance of `seconds` and `tokens` in a batch, over which linear_pos is shared.

    Training is three times forward, the gradients of inputs and of weights being a product each; layers that
    are checkpointed run forward once more. The joint's output layer is one product forward and three on the
    cells that its backward visits. The front end, whose input needs no gradient, has none.

    Raises MayaError for a model with an attention decoder.
    """
    check_parts(cfg)
    features, encoder, predictor = cfg.features, cfg.encoder, cfg.predictor
    feature_frames, frames = count_frames(cfg, seconds)
    states = tokens + 1
    layers = layer_flops(encoder, frames, batch)
    forward = {
        "features": 2.0 * (feature_frames + 1) * (transform_size(features) // 2 + 1) * features.num_mels,
        "subsampling": front_flops(encoder, feature_frames),
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
        columns = min(states, cfg.pruned.s_range) if cfg.transducer == "pruned" else states
        nodes = 2.0 * frames * columns * hidden * outputs
        visited = VISITED[cfg.transducer]
        if cfg.transducer == "tdt":
            visited = (1 - cfg.omega) * visited + cfg.omega * VISITED["rnnt"]
        if isinstance(predictor, PredictorConfig):
            per_state = 8 * width * width * predictor.layers
        else:
            per_state = 4 * width * predictor.context  # a convolution in groups of 4 channels
        forward["predictor"] = 2.0 * per_state * states
        forward["joint projections"] = 2.0 * hidden * (cfg.encoder.d_model * frames + width * states)
        if cfg.transducer == "pruned":
            simple = cfg.encoder.d_model * frames + width * states
            forward["simple joint"] = 2.0 * (cfg.vocab_size + 1) * simple
        training |= {name: 3 * forward[name] for name in forward if name not in training}
        forward["joint output and loss"] = nodes
        training["joint output and loss"] = nodes * (1 + 3 * visited)
    if cfg.ctc_weight > 0:
        forward["ctc head"] = 2.0 * cfg.encoder.d_model * (cfg.vocab_size + 1) * frames
        training["ctc head"] = 3 * forward["ctc head"]
    return Flops(forward, training)
