"""The parts of a Zipformer model for sherpa-onnx, with inputs and outputs as in icefall's exports."""

import torch
from torch import Tensor, nn

from maya.convert.heads import transducer_head
from maya.encoders import Zipformer
from maya.encoders.zipformer.layer import LayerCache
from maya.encoders.zipformer.streaming import ZipformerState
from maya.heads.transducer import Joint, StatelessPredictor
from maya.heads.transducer.stateless import StatelessState
from maya.models.speech_model import SpeechModel

LAYER_STATES = ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")


class OfflineGraph(nn.Module):
    """x (N, T, F), x_lens (N,) int64 -> out (N, S, J or V), its lens (N,) int64.

    `out` is the encoder's output, projected for the joiner, or CTC's log-probabilities.
    """

    def __init__(self, model: SpeechModel, ctc: bool) -> None:
        super().__init__()
        assert isinstance(model.encoder, Zipformer)
        self.encoder = model.encoder
        self.head = model.head("ctc") if ctc else transducer_head(model).joint.enc

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        enc, lens = self.encoder(x, x_lens)
        return self.head(enc), lens


class StreamingGraph(OfflineGraph):
    """x (N, 2 C + 13, F), states -> out (N, C / 2, J or V), new states.

    States, in this order: of each layer keys (L, N, H Q), gated frames (1, N, L, 3D/4), two sets of values
    (L, N, H V) and two convolutions' inputs (N, D, K // 2); then embed_states (N, C, 3, F') and
    processed_lens (N,) int64.
    """

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        enc, state = self.encoder.stream_step(x, from_sherpa(states))
        return self.head(enc), *to_sherpa(state)


class DecoderGraph(nn.Module):
    """y (N, context) int64, -1 before the first label -> decoder_out (N, J), projected."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        head = transducer_head(model)
        assert isinstance(head.decoder, StatelessPredictor)
        self.predictor, self.proj = head.decoder, head.joint.pred

    def forward(self, y: Tensor) -> Tensor:
        pred, _ = self.predictor.step(y[:, -1], StatelessState(y[:, :-1]))
        return self.proj(pred)


class ProjectedJoinerGraph(nn.Module):
    """encoder_out (N, J), decoder_out (N, J), both projected -> logit (N, V)."""

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        return self.joint.output(encoder_out, decoder_out)


def to_sherpa(state: ZipformerState) -> list[Tensor]:
    """The tensors of a state in sherpa-onnx's order and layout."""
    tensors = []
    for cache in state.layers:
        key, nonlin, value1, value2, conv1, conv2 = cache.tensors()
        tensors += [key.transpose(0, 1), nonlin[None], value1.transpose(0, 1), value2.transpose(0, 1)]
        tensors += [conv1.transpose(1, 2), conv2.transpose(1, 2)]
    return [*tensors, state.front.permute(0, 3, 1, 2), state.frames]


def from_sherpa(tensors: tuple[Tensor, ...]) -> ZipformerState:
    """The inverse of `to_sherpa`."""
    *layers, front, frames = tensors
    caches = []
    for i in range(0, len(layers), len(LAYER_STATES)):
        key, nonlin, value1, value2, conv1, conv2 = layers[i : i + len(LAYER_STATES)]
        caches.append(
            LayerCache(
                key.transpose(0, 1), nonlin[0], value1.transpose(0, 1), value2.transpose(0, 1),
                conv1.transpose(1, 2), conv2.transpose(1, 2),
            )
        )  # fmt: skip
    return ZipformerState(front.permute(0, 2, 3, 1), tuple(caches), frames)


def state_axes(layers: int) -> dict[str, str]:
    """The names of the states of an encoder with so many layers in total, and the axes of each up to N."""
    first = {"conv1": "N", "conv2": "N"}
    states = {f"cached_{name}_{i}": first.get(name, "_ N") for i in range(layers) for name in LAYER_STATES}
    return states | {"embed_states": "N", "processed_lens": "N"}


def initial_states(encoder: Zipformer, batch: int, left_frames: int) -> list[Tensor]:
    """The states before the first chunk: zeros."""
    with torch.no_grad():
        return to_sherpa(encoder.initial_state(batch, left_frames))
