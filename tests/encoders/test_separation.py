"""Conv-TasNet against a plain one, streams against whole recordings, and attention against its definition."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders import ConvTasNetConfig, SepReformerConfig
from maya.encoders.separation.config import SeparatorConfig
from maya.encoders.separation.filterbank import Framing
from maya.encoders.separation.focused_attention import FocusedLinearAttention
from maya.encoders.separation.norms import SeparationNorm
from maya.errors import MayaError
from maya.heads import SeparationConfig
from maya.models.separation import SeparationStream, separate, separation_model
from maya.models.speech_model import SpeechModel

TASNET: dict[str, Any] = {
    "filters": 12, "bottleneck": 10, "hidden": 14, "skip": 10, "layers": 3, "stacks": 2
}  # fmt: skip
REFORMER: dict[str, Any] = {"filters": 12, "channels": 8, "heads": 2, "stages": 2, "local_kernel": 9}
ENCODERS = {
    "global": ConvTasNetConfig(**TASNET),
    "asteroid": ConvTasNetConfig(**TASNET, padded=False, norm="channel", encoder_activation="relu"),
    "causal": ConvTasNetConfig(**TASNET, causal=True, norm="cumulative", mask_activation="relu"),
    "channel": ConvTasNetConfig(**TASNET, causal=True, norm="channel", sources=3, padded=False),
    "sepreformer": SepReformerConfig(**REFORMER),
}


def model_of(encoder: SeparatorConfig, head: SeparationConfig | None = None) -> SpeechModel:
    torch.manual_seed(3)
    model = SpeechModel(separation_model(encoder, 8000, head)).eval()
    for parameter in model.parameters():  # the scales of SepReformer's blocks begin near 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def plain_conv_tasnet(model: SpeechModel, audio: Tensor) -> Tensor:
    """torchaudio's ConvTasNet, written down with functions of torch: (B, N) → (B, sources, N)."""
    cfg, state = model.cfg.encoder, model.state_dict()
    assert isinstance(cfg, ConvTasNetConfig)

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        name = f"encoder.mask_generator.{name}"
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def norm(x: Tensor, name: str) -> Tensor:
        name = f"encoder.mask_generator.{name}"
        return F.group_norm(x, 1, state[f"{name}.weight"], state[f"{name}.bias"], 1e-8)

    def prelu(x: Tensor, name: str) -> Tensor:
        return F.prelu(x, state[f"encoder.mask_generator.{name}.weight"])

    short = -audio.shape[1] % cfg.stride
    frames = F.conv1d(
        F.pad(audio, (0, short))[:, None],
        state["encoder.encoder.weight"],
        stride=cfg.stride,
        padding=cfg.stride,
    )
    x, total = conv(norm(frames, "input_norm"), "input_conv"), torch.zeros(())
    for number in range(cfg.layers * cfg.stacks):
        block, step = f"conv_layers.{number}", 2 ** (number % cfg.layers)
        y = norm(prelu(conv(x, f"{block}.conv_layers.0"), f"{block}.conv_layers.1"), f"{block}.conv_layers.2")
        y = conv(y, f"{block}.conv_layers.3", padding=step, dilation=step, groups=cfg.hidden)
        y = norm(prelu(y, f"{block}.conv_layers.4"), f"{block}.conv_layers.5")
        total = total + conv(y, f"{block}.skip_out")
        if number < cfg.layers * cfg.stacks - 1:
            x = x + conv(y, f"{block}.res_out")
    masks = conv(prelu(total, "output_prelu"), "output_conv").sigmoid()
    rows = (masks.view(len(audio), cfg.sources, cfg.filters, -1) * frames[:, None]).flatten(0, 1)
    weight = state["heads.separation.decoder.weight"]
    out = F.conv_transpose1d(rows, weight, stride=cfg.stride, padding=cfg.stride)
    return out.view(len(audio), cfg.sources, -1)[:, :, : audio.shape[1]]


@pytest.mark.parametrize("samples", [1, 16, 4000, 4003])
def test_conv_tasnet_is_that_of_torchaudio(samples: int) -> None:
    model, audio = model_of(ENCODERS["global"]), torch.randn(2, samples)
    with torch.no_grad():
        expected = plain_conv_tasnet(model, audio)
    assert torch.allclose(separate(model, audio, torch.full((2,), samples)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("samples", [1, 15, 16, 17, 801, 1600])
def test_a_padded_row_equals_the_row_alone(name: str, samples: int) -> None:
    model, audio = model_of(ENCODERS[name]), torch.randn(2, 2000)
    lens = torch.tensor([2000, samples])
    rows = separate(model, audio, lens)
    alone = separate(model, audio[1:, :samples], lens[1:])
    scale = float(alone.abs().max()) or 1.0
    assert float((rows[1, :, :samples] - alone[0]).abs().max()) <= 1e-5 * max(1.0, scale)
    assert not rows[1, :, samples:].any()


@pytest.mark.parametrize("name", ENCODERS)
def test_lengths_are_those_of_the_clock(name: str) -> None:
    model = model_of(ENCODERS[name])
    for samples in (0, 1, 8, 16, 100, 101):
        encoded = model.encode_audio(torch.randn(1, samples), torch.tensor([samples]))
        assert encoded.lens.tolist() == [encoded.frames.shape[1]] == [model.cfg.clock.frames(samples)]


@pytest.mark.parametrize("name", ["causal", "channel"])
@pytest.mark.parametrize("sizes", [[1], [7, 0, 100], [997], [5000]])
def test_a_stream_equals_the_whole(name: str, sizes: list[int]) -> None:
    model, audio = model_of(ENCODERS[name]), torch.randn(2, 3001)
    stream, pieces, begin, number = SeparationStream(model, 2), [], 0, 0
    while begin < audio.shape[1]:
        size = sizes[number % len(sizes)]
        pieces.append(stream.push(audio[:, begin : begin + size]))
        begin, number = begin + size, number + 1
    pieces.append(stream.push(audio[:, :0], final=True))
    whole = separate(model, audio, torch.tensor([3001, 3001]))
    streamed = torch.cat(pieces, 2)
    assert streamed.shape == whole.shape
    assert float((streamed - whole).abs().max()) <= 1e-5 * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("samples", [0, 1, 7, 15, 16, 30])
def test_a_short_stream_equals_the_whole(samples: int) -> None:
    for name in ("causal", "channel"):
        model, audio = model_of(ENCODERS[name]), torch.randn(1, samples)
        streamed = SeparationStream(model).push(audio, final=True)
        assert torch.allclose(streamed, separate(model, audio, torch.tensor([samples])), atol=1e-5)


def test_no_output_of_a_causal_model_sees_later_audio() -> None:
    model, audio = model_of(ENCODERS["causal"]), torch.randn(1, 2000)
    other = torch.cat([audio[:, :1000], torch.randn(1, 1000)], 1)
    first, second = (separate(model, x, torch.tensor([2000])) for x in (audio, other))
    # A window of 16 samples that holds sample 1000 begins at 985 or later.
    assert torch.allclose(first[:, :, :984], second[:, :, :984], atol=1e-5)
    assert not torch.allclose(first[:, :, 1000:], second[:, :, 1000:], atol=1e-3)


def test_cumulative_sums_of_hours_lose_no_digits() -> None:
    """Of a stream whose sums began long ago: fp32 sums would be off by more than the frames themselves."""
    norm = SeparationNorm(4, "cumulative")
    x = torch.randn(1, 4, 50) + 3
    past = torch.tensor([[4.0 * 10**9, 3.0 * 4 * 10**9, 10.0 * 4 * 10**9]], dtype=torch.float64)
    y = norm(x, None, past.clone())
    assert torch.allclose(y, x - 3, atol=1e-4)


def test_global_norm_leaves_padding_out() -> None:
    norm, x = SeparationNorm(5), torch.randn(2, 5, 9)
    valid = (torch.arange(9) < torch.tensor([9, 4])[:, None])[:, None]
    y = norm(x, valid)
    assert torch.allclose(y[:1], F.group_norm(x[:1], 1, eps=1e-8), atol=1e-6)
    assert torch.allclose(y[1:, :, :4], F.group_norm(x[1:, :, :4], 1, eps=1e-8), atol=1e-5)


def quadratic(module: FocusedLinearAttention, x: Tensor) -> Tensor:
    """The attention with the weights of each pair of frames written out, of one row."""
    scale = F.softplus(module.scale)

    def focused(y: Tensor) -> Tensor:
        y = (y.relu() + 1e-6) / scale
        return y**module.power / (y**module.power).norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)

    size, width = x.shape[0], x.shape[1] // module.heads
    q, k, v = focused(module.q(x)), focused(module.k(x)), module.v(x)
    heads = []
    for part in (slice(h * width, (h + 1) * width) for h in range(module.heads)):
        weights = q[:, part] @ k[:, part].T / size
        mixed = weights @ v[:, part] / (weights.sum(1, keepdim=True) + 1e-6)
        heads.append(mixed + module.local(v[:, part].T[None])[0].T)
    return module.out(torch.cat(heads, 1))


def test_focused_attention_equals_the_sum_over_pairs() -> None:
    torch.manual_seed(5)
    module, x = FocusedLinearAttention(8, 2).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    nn.init.normal_(module.scale)
    valid = (torch.arange(30) < torch.tensor([30, 11])[:, None])[..., None].double()
    y = module(x, valid)
    assert torch.allclose(y[0], quadratic(module, x[0]), atol=1e-9)
    assert torch.allclose(y[1, :11], quadratic(module, x[1, :11]), atol=1e-9)


def test_auxiliary_losses_come_from_the_coarser_stages() -> None:
    model = model_of(ENCODERS["sepreformer"], SeparationConfig(auxiliary=0.4))
    encoded = model.encode_audio(torch.randn(1, 500), torch.tensor([500]), hidden=model.hidden)
    assert sorted(encoded.hidden) == [0, 1] and model.parts == ("separation", "separation_auxiliary")
    assert all(frames.shape == encoded.frames.shape for frames in encoded.hidden.values())
    with pytest.raises(MayaError, match="no stages for auxiliary losses"):
        model_of(ENCODERS["global"], SeparationConfig(auxiliary=0.4))


def test_what_cannot_be_built_or_streamed_is_refused() -> None:
    with pytest.raises(MayaError, match="set norm=cumulative"):
        model_of(ConvTasNetConfig(**TASNET, causal=True))
    with pytest.raises(MayaError, match="is not causal and cannot stream"):
        SeparationStream(model_of(ENCODERS["global"]))
    with pytest.raises(MayaError, match="make kernel_size a multiple of stride"):
        Framing(16, 5, True)
    with pytest.raises(MayaError, match="cannot be split into 3 heads"):
        model_of(SepReformerConfig(filters=4, channels=8, heads=3))
    config = separation_model(ENCODERS["global"], 8000)
    head = config.heads["separation"]
    assert isinstance(head, SeparationConfig)
    head.padded = False
    with pytest.raises(MayaError, match="give both the same kernel_size, stride and padded"):
        separate(SpeechModel(config).eval(), torch.randn(1, 100), torch.tensor([100]))
