"""LaCT fed piece by piece: equal to the whole, with a state that does not grow.

A stream remembers, beside what a FastConformer does, the fast weights that it has learnt and their momentum.
They are also what may go on from one utterance to the next of the same speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.encoders.conformer.attention import Frames
from maya.encoders.conformer.streaming import StreamState, newest
from maya.encoders.lact.fast_weights import FastWeightBranch, FastWeightConfig
from maya.errors import MayaError
from maya.kernels.lact import FastWeights

if TYPE_CHECKING:
    from maya.encoders.lact.encoder import LaCT, LaCTLayer

# The dimension of each tensor in which a stream is a row.
BATCH_DIM = {"attention": 1, "convolution": 1, "fast": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class LaCTState(StreamState):
    """What B streams remember; `StreamState` says what most of the tensors are.

    chunk: encoder frames of one step of the fast weights, in multiples of which frames are given out.
    fast (K, L, B, H, Dh * D): K of the matrices w0, w1, w2, m0, m1, m2 of L layers, flat: those that change.
    learnt (B,) bool: False where `fast` says nothing yet and the model's own weights stand.
    """

    chunk: int
    fast: Tensor
    learnt: Tensor

    @property
    def step(self) -> int:
        """Frames are given out in multiples of this."""
        return self.chunk

    def reset(self, rows: Tensor) -> LaCTState:
        """The state with `rows` (B,) bool at a start, knowing nothing, and the others where they are."""
        state = self.next_utterance(rows)
        fast = state.fast.masked_fill(rows[:, None, None], 0.0)
        return replace(state, fast=fast, learnt=state.learnt & ~rows)

    def next_utterance(self, rows: Tensor) -> LaCTState:
        """The state with `rows` (B,) bool at the start of another utterance of the same speaker: all is
        forgotten but the fast weights and their momentum."""
        state = StreamState.reset(self, rows)
        assert isinstance(state, LaCTState)
        return state

    def tensors(self) -> dict[str, Tensor]:
        """All that a stream has to keep, by name; `with_tensors` of an initial state takes it back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: dict[str, Tensor]) -> LaCTState:
        """This state with what `tensors` gave of another one of the same model, on the device of this one.

        Raises MayaError where a tensor is missing or does not fit.
        """
        mine = self.tensors()
        for name, tensor in mine.items():
            other = tensors.get(name)
            if other is None or _fixed_sizes(name, other) != _fixed_sizes(name, tensor):
                found = "nothing" if other is None else f"a tensor {tuple(other.shape)}"
                raise MayaError(
                    f"this is no saved state of this encoder: it has {found} as {name!r}, where one like "
                    f"{tuple(tensor.shape)} belongs"
                )
        taken: dict[str, Any] = {name: tensors[name].to(tensor.device) for name, tensor in mine.items()}
        return replace(self, **taken)

    def select(self, rows: Tensor) -> LaCTState:
        """The states of `rows` (B',) int64."""
        taken: dict[str, Any] = {
            n: t.index_select(BATCH_DIM.get(n, 0), rows) for n, t in self.tensors().items()
        }
        return replace(self, **taken)

    @staticmethod
    def join(states: Sequence[LaCTState]) -> LaCTState:
        """One batch of several, which may have started at different times."""
        widest = max(s.features.shape[1] for s in states)
        held = [s.tensors() for s in states]
        for tensors in held:
            missing = widest - tensors["features"].shape[1]
            tensors["features"] = F.pad(tensors["features"], (0, 0, 0, missing))
        joined: dict[str, Any] = {
            n: torch.cat([t[n] for t in held], dim=BATCH_DIM.get(n, 0)) for n in held[0]
        }
        return replace(states[0], **joined)

    def bytes(self) -> dict[str, int]:
        """What one stream has to keep, in bytes, by kind; features that wait for their frame included."""
        batch = max(1, len(self.frames))
        return {name: t.numel() * t.element_size() // batch for name, t in self.tensors().items()}

    def describe(self) -> str:
        """One line on the size of the state of one stream, for people."""
        sizes = self.bytes()
        named = {"fast weights": sizes["fast"], "attention": sizes["attention"]}
        named |= {"convolution": sizes["convolution"], "features": sizes["features"]}
        parts = ", ".join(f"{name} {size / 1e6:.3f}" for name, size in named.items())
        return f"state of one stream: {sum(sizes.values()) / 1e6:.3f} MB ({parts})"


def _fixed_sizes(name: str, tensor: Tensor) -> list[int]:
    """The sizes of a tensor of the state that the model alone decides: not the streams, not what waits."""
    varying = {BATCH_DIM.get(name, 0), 1 if name == "features" else -1}
    return [-1 if dim in varying else size for dim, size in enumerate(tensor.shape)]


def initial_state(encoder: LaCT, batch: int, context: tuple[int, int] | None) -> LaCTState:
    """See `LaCT.initial_state`."""
    cfg = encoder.cfg
    why = None
    if not cfg.causal_downsampling or cfg.conv_context != "causal":
        why = "needs encoder.causal_downsampling=true and encoder.conv_context=causal"
    elif cfg.order not in ("chunk_causal", "causal"):
        why = f"learns from the whole utterance before it reads it (encoder.order={cfg.order})"
    elif context is not None and context != cfg.window:
        why = f"sees {cfg.window} frames as it was built, not {context}"
    if why is not None:
        raise MayaError(
            f"this encoder cannot stream so: it {why}; train it so from the start, or transcribe whole files"
        )
    weight = encoder.pre_encode.out.weight
    past = encoder.pre_encode.overlap * cfg.subsampling_factor
    zeros = weight.new_zeros(batch, dtype=torch.long)
    branch = encoder.layers[0].mixer.fast
    fast = branch.initial(1).w0[0].new_zeros(1)
    heads, size = branch.w0.shape[0], branch.w0[0].numel()
    left = max(0, encoder.cfg.window[0])
    return LaCTState(
        span=cfg.span,
        past=past,
        chunk=cfg.chunk,
        frames=zeros,
        features=weight.new_zeros(batch, past, cfg.feat_in),
        feature_lens=zeros + past,
        attention=weight.new_zeros(cfg.n_layers, batch, left, cfg.d_model),
        attention_lens=zeros,
        convolution=weight.new_zeros(cfg.n_layers, batch, cfg.d_model, cfg.conv_kernel - 1),
        fast=fast.new_zeros(len(changing(cfg)), cfg.n_layers, batch, heads, size),
        learnt=zeros.bool(),
    )


def changing(cfg: FastWeightConfig) -> tuple[str, ...]:
    """The matrices of the fast weights that learning changes."""
    numbers = "012" if cfg.update_weights == "all" else "1"
    return tuple(kind + number for kind in ("wm" if cfg.momentum else "w") for number in numbers)


def through_layers(encoder: LaCT, x: Tensor, counts: Tensor, state: LaCTState) -> tuple[Tensor, LaCTState]:
    """The layers over new frames x (B, n, D), of which `counts` (B,) are there, from a chunk's start on."""
    left, n = state.attention.shape[2], x.shape[1]
    valid = torch.arange(n, device=x.device) < counts[:, None]
    cached = torch.arange(left, device=x.device) >= left - state.attention_lens[:, None]
    frames = Frames(valid=torch.cat([cached, valid], dim=1), positions=x.new_empty(0), span=state.span)
    attention, convolution, fast = [], [], []
    for index, layer in enumerate(encoder.layers):
        cache = state.convolution[index]
        weights = _weights(layer.mixer.fast, state.fast[:, index], state.learnt)
        x, attended, convolved, after = _layer(
            layer, x, state.attention[index], cache, frames, weights, state.frames
        )
        reach = cache.shape[2]
        attention.append(newest(attended, left + counts, left))
        convolution.append(newest(convolved, reach + counts, reach).transpose(1, 2))
        fast.append(torch.stack([getattr(after, name).flatten(2) for name in changing(encoder.cfg)]))
    learnt = state.learnt | (counts > 0)
    state = replace(
        state,
        frames=state.frames + counts,
        attention=torch.stack(attention),
        attention_lens=(state.attention_lens + counts).clamp(max=left),
        convolution=torch.stack(convolution),
        fast=torch.stack(fast, dim=1).masked_fill(~learnt[:, None, None], 0.0),
        learnt=learnt,
    )
    return x * valid[..., None].to(x.dtype), state


def _weights(branch: FastWeightBranch, held: Tensor, learnt: Tensor) -> FastWeights:
    """held (K, B, H, Dh * D) as fast weights; where nothing is learnt, the model's own."""
    start = branch.initial(len(learnt))
    weights: dict[str, Any] = {"w0": start.w0, "w1": start.w1, "w2": start.w2}
    for name, flat in zip(changing(branch.cfg), held, strict=True):
        own = getattr(start, "w" + name[1])
        own = own if name[0] == "w" else torch.zeros_like(own)
        weights[name] = torch.where(learnt[:, None, None, None], flat.reshape(own.shape), own)
    return FastWeights(**weights)


def _layer(
    layer: LaCTLayer,
    x: Tensor,
    att_cache: Tensor,
    conv_cache: Tensor,
    frames: Frames,
    weights: FastWeights,
    first: Tensor,
) -> tuple[Tensor, Tensor, Tensor, FastWeights]:
    """`LaCTLayer.forward` for one piece; also what the next caches are cut from, and fast weights after."""
    left = att_cache.shape[1]
    x = torch.add(x, layer.feed_forward1(layer.norm_feed_forward1(x)), alpha=0.5)
    attended = torch.cat([att_cache, layer.norm_mixer(x)], dim=1)
    y, after = layer.mixer.mix(attended, frames.valid, frames.span, weights, first, before=left)
    x = x + y
    y, convolved = layer.conv.stream(layer.norm_conv(x), conv_cache, frames.valid[:, left:])
    x = x + y
    x = torch.add(x, layer.feed_forward2(layer.norm_feed_forward2(x)), alpha=0.5)
    return layer.norm_out(x), attended, convolved, after
