"""Files of weights with SpeechBrain's and wespeaker's names, which the test writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import import_ecapa
from maya.encoders import EcapaConfig
from maya.errors import MayaError
from maya.heads import SpeakerConfig
from maya.recipes.cli import parser
from maya.recipes.convert import run as convert

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _conv(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (size,) for leaf in _STATISTICS} | {f"{name}.num_batches_tracked": ()}


def speechbrain(c: int = 16, mfa: int = 24, se: int = 4, att: int = 6, out: int = 10) -> dict[str, Any]:
    """Shapes by name of embedding_model.ckpt."""

    def tdnn(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return _conv(f"{name}.conv.conv", *shape) | _norm(f"{name}.norm.norm", shape[0])

    shapes = tdnn("blocks.0", c, 80, 5)
    for block in ("blocks.1", "blocks.2", "blocks.3"):
        shapes |= tdnn(f"{block}.tdnn1", c, c, 1) | tdnn(f"{block}.tdnn2", c, c, 1)
        for n in range(7):
            shapes |= tdnn(f"{block}.res2net_block.blocks.{n}", c // 8, c // 8, 3)
        shapes |= _conv(f"{block}.se_block.conv1.conv", se, c, 1) | _conv(
            f"{block}.se_block.conv2.conv", c, se, 1
        )
    shapes |= (
        tdnn("mfa", mfa, 3 * c, 1) | tdnn("asp.tdnn", att, 3 * mfa, 1) | _conv("asp.conv.conv", mfa, att, 1)
    )
    return shapes | _norm("asp_bn.norm", 2 * mfa) | _conv("fc.conv", out, 2 * mfa, 1)


def wespeaker(c: int = 16, att: int = 6, out: int = 10) -> dict[str, Any]:
    """Shapes by name of avg_model.pt, without global context, with its classifier."""
    shapes = _conv("layer1.conv", c, 80, 5) | _norm("layer1.bn", c)
    for layer in (2, 3, 4):
        block = f"layer{layer}.se_res2block"
        for part in (0, 2):
            shapes |= _conv(f"{block}.{part}.conv", c, c, 1) | _norm(f"{block}.{part}.bn", c)
        for n in range(7):
            shapes |= _conv(f"{block}.1.convs.{n}", c // 8, c // 8, 3) | _norm(f"{block}.1.bns.{n}", c // 8)
        shapes |= _conv(f"{block}.3.linear1", 4, c) | _conv(f"{block}.3.linear2", c, 4)
    shapes |= (
        _conv("conv", 24, 3 * c, 1) | _conv("pool.linear1", att, 24, 1) | _conv("pool.linear2", 24, att, 1)
    )
    return (
        shapes
        | _norm("bn", 48)
        | _conv("linear", out, 48)
        | _norm("bn2", out)
        | {"projection.weight": (30, out)}
    )


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.rand(shape) + 0.1 if shape else torch.tensor(7) for name, shape in shapes.items()}


def test_speechbrain(tmp_path: Path) -> None:
    path = tmp_path / "embedding_model.ckpt"
    tensors = tensors_of(speechbrain())
    torch.save(tensors, path)
    made = import_ecapa(path).checkpoint
    encoder, head = made.model_config.encoder, made.model_config.heads["speaker"]
    assert isinstance(encoder, EcapaConfig) and isinstance(head, SpeakerConfig)
    assert (encoder.channels, encoder.d_model, encoder.se_channels, encoder.scale) == (16, 24, 4, 8)
    assert (encoder.untouched, encoder.padding, encoder.mfa_norm) == ("first", "reflect", True)
    assert head.global_context and not head.embedding_norm and head.embedding == 10
    pairs = {
        "encoder.layers.1.res2.convs.6.norm.bias": "blocks.2.res2net_block.blocks.6.norm.norm.bias",
        "encoder.layers.0.before.conv.weight": "blocks.1.tdnn1.conv.conv.weight",
        "encoder.layers.2.excite.bias": "blocks.3.se_block.conv2.conv.bias",
        "heads.speaker.pool.norm.weight": "asp.tdnn.norm.norm.weight",
    }  # fmt: skip
    for ours, original in pairs.items():
        assert torch.equal(made.weights[ours], tensors[original])
    assert torch.equal(made.weights["heads.speaker.out.weight"], tensors["fc.conv.weight"][:, :, 0])


def test_wespeaker(tmp_path: Path) -> None:
    path = tmp_path / "avg_model.pt"
    tensors = tensors_of(wespeaker())
    torch.save(tensors, path)
    made = import_ecapa(path)
    encoder, head = made.checkpoint.model_config.encoder, made.checkpoint.model_config.heads["speaker"]
    assert isinstance(encoder, EcapaConfig) and isinstance(head, SpeakerConfig)
    assert (encoder.untouched, encoder.padding, encoder.mfa_norm) == ("last", "zeros", False)
    assert not head.global_context and head.embedding_norm and head.variant == "wespeaker"
    assert "projection.weight" in made.report.text()
    weights = made.checkpoint.weights
    assert torch.equal(
        weights["encoder.layers.0.res2.convs.3.conv.bias"], tensors["layer2.se_res2block.1.convs.3.bias"]
    )
    assert torch.equal(weights["heads.speaker.pool.score.weight"], tensors["pool.linear2.weight"][:, :, 0])


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = tensors_of(speechbrain())
    name = "blocks.2.tdnn2.norm.norm.bias"
    cases: list[tuple[Any, str]] = [
        ({k: v for k, v in whole.items() if k != name}, "lacks tensors.*"),
        (whole | {"blocks.9.extra": torch.zeros(1)}, "does not have: blocks.9.extra"),
        (whole | {name: torch.zeros(3)}, f"{name} has shape"),
        (whole | {name: torch.full((16,), torch.nan)}, "not finite"),
        ({k: v for k, v in whole.items() if not k.startswith("asp.")}, "is its pooling attentive"),
        ({k: v for k, v in whole.items() if not k.startswith("mfa.")}, "lacks the tensor"),
        ({"a": torch.zeros(1)}, "holds no ECAPA-TDNN"), ({"model": {}}, "holds no state dict"),
    ]  # fmt: skip
    path = tmp_path / "a.ckpt"
    for content, complaint in cases:
        torch.save(content, path)
        with pytest.raises(MayaError, match=complaint):
            import_ecapa(path)
    path.write_text("text")
    with pytest.raises(MayaError, match="no file of weights"):
        import_ecapa(path)
    with pytest.raises(MayaError, match="there is no file"):
        import_ecapa(tmp_path / "none")


def test_converted_weights_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tensors_of(speechbrain()), tmp_path / "a.ckpt")
    convert(parser().parse_args(["convert", "ecapa", str(tmp_path / "a.ckpt"), str(tmp_path / "out")]))
    assert "SpeechBrain" in capsys.readouterr().out
    from maya.align.speakers.encoder import load_encoder  # noqa: PLC0415

    encoder = load_encoder(str(tmp_path / "out" / "best.pt"))
    embedding = encoder.embed([0.1 * torch.randn(16000), 0.1 * torch.randn(9000)])
    assert embedding.shape == (2, 10) and torch.allclose(embedding.norm(dim=1), torch.ones(2))
