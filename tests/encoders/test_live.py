"""Streams on a CPU with weights that lie ready give what the modules give."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.encoders import FastConformer, FastConformerConfig, Zipformer, ZipformerConfig
from maya.encoders.conformer.live import LiveConformerStream
from maya.encoders.zipformer.live import LiveZipformerState
from maya.kernels.packed import PackedLinear, padded_batch

FEATURES = 16


def conformer(**options: Any) -> FastConformer:
    defaults: dict[str, Any] = {
        "feat_in": FEATURES, "d_model": 16, "n_layers": 2, "n_heads": 2, "conv_kernel": 5,
        "subsampling_channels": 4, "att_context_size": ((6, 1),), "att_context_style": "chunked_limited",
        "causal_downsampling": True, "conv_context": "causal", "conv_norm": "layer_norm",
    }  # fmt: skip
    return FastConformer(FastConformerConfig(**(defaults | options)))


def zipformer() -> Zipformer:
    cfg = ZipformerConfig(
        feat_in=FEATURES, downsampling=(1, 2), layers=(1, 2), dims=(16, 24), unmasked_dims=(16, 16),
        ff_dims=(32, 32), heads=(2, 2), conv_kernels=(7, 5), causal=True, chunk_frames=(4,),
        left_context_frames=(8,), front_channels=(2, 4, 8),
    )  # fmt: skip
    return Zipformer(cfg)


def randomised(encoder: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*encoder.parameters(), *encoder.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return encoder.eval()


def both(encoder: Any, count: int) -> tuple[list[Any], list[Any]]:
    """Streams of the modules, which take gradients, and streams with weights that lie ready."""
    plain = [encoder.stream(1) for _ in range(count)]
    with torch.no_grad():
        return plain, [encoder.stream(1) for _ in range(count)]


def is_live(stream: Any) -> bool:
    return isinstance(stream, LiveConformerStream) or isinstance(stream.state, LiveZipformerState)


def joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1)


ENCODERS: dict[str, Any] = {
    "chunks": conformer,
    "batch norm, no bias": lambda: conformer(conv_norm="batch_norm", use_bias=False, xscaling=False),
    "a band": lambda: conformer(att_context_size=((5, 0),), untie_biases=False),
    "factor 4": lambda: conformer(subsampling_factor=4, att_context_size=((4, 3),)),
    "zipformer": zipformer,
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_they_equal_the_modules(name: str, count: int) -> None:
    draw, encoder = random.Random(count), randomised(ENCODERS[name]())
    plain, live = both(encoder, count)
    assert all(map(is_live, live)) and not any(map(is_live, plain))
    ends = {row: draw.randrange(25, 40) for row in range(count)}
    given: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(count)]
    for step in range(41):
        rows = [
            row for row in range(count) if step <= ends[row] and (draw.random() < 0.7 or step == ends[row])
        ]
        if not rows:
            continue
        feats = [torch.randn(1, draw.choice([0, 1, 3, 8, 17, 70]), FEATURES) for _ in rows]
        finals = [step == ends[row] for row in rows]
        with torch.no_grad():
            for kind, streams in enumerate((plain, live)):
                y = type(streams[0]).push_each([streams[row] for row in rows], feats, finals)
                for row, frames in zip(rows, y, strict=True):
                    given[row][kind].append(frames)
    for expected, got in given:
        assert [part.shape for part in got] == [part.shape for part in expected]
        torch.testing.assert_close(joined(got), joined(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["chunks", "zipformer"])
def test_a_stream_reads_the_weights_of_now(name: str) -> None:
    encoder, feats = randomised(ENCODERS[name]()), torch.randn(1, 120, FEATURES)
    before = [stream.push(feats).frames for (stream,) in both(encoder, 1)]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.1)
    after = [stream.push(feats).frames for (stream,) in both(encoder, 1)]
    torch.testing.assert_close(before[1], before[0].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[1], after[0].detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after[0], before[0])


def test_modules_with_hooks_and_adapters_stay_modules() -> None:
    encoder = randomised(conformer())
    handle = encoder.layers[0].feed_forward1.linear1.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        assert not is_live(encoder.stream(1))
        handle.remove()
        assert is_live(encoder.stream(1))
        encoder.layers[0].feed_forward1.linear1 = torch.nn.Sequential(torch.nn.Linear(16, 64))
        assert not is_live(encoder.stream(1))
        assert not is_live(randomised(conformer()).double().stream(1))


@pytest.mark.parametrize("rows", [1, 3, 4, 17])
def test_packed_products(rows: int) -> None:
    layer, x = torch.nn.Linear(24, 40), torch.randn(rows, 24)
    other = torch.randn(rows, 40)
    with torch.no_grad():
        packed = PackedLinear.of(layer, scale=0.5)
        torch.testing.assert_close(packed(x), layer(x) / 2)
        expected = torch.nn.functional.silu(layer(x) / 2)
        torch.testing.assert_close(packed(x, "swish"), expected)
        torch.testing.assert_close(packed.added_to(other.clone(), x), other + layer(x) / 2)
    assert padded_batch(rows) >= rows and padded_batch(129) == 192
