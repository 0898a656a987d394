"""Files of weights with the names of wespeaker's ResNet34 and CAM++, which the test writes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maya.align.speakers.encoder import load_encoder
from maya.convert import import_wespeaker
from maya.encoders import CamConfig, ResNetConfig
from maya.errors import MayaError
from maya.heads import SpeakerConfig
from maya.recipes.cli import parser
from maya.recipes.convert import run as convert
from tests.convert.test_ecapa import tensors_of

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, size: int, *, affine: bool = True) -> Shapes:
    leaves = ("weight", "bias") if affine else ()
    return {f"{name}.{leaf}": (size,) for leaf in (*leaves, "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def block(name: str, inputs: int, outputs: int) -> Shapes:
    shapes: Shapes = {
        f"{name}.conv1.weight": (outputs, inputs, 3, 3), f"{name}.conv2.weight": (outputs, outputs, 3, 3)
    }  # fmt: skip
    return shapes | norm(f"{name}.bn1", outputs) | norm(f"{name}.bn2", outputs)


def shortcut(name: str, inputs: int, outputs: int) -> Shapes:
    shapes: Shapes = {f"{name}.shortcut.0.weight": (outputs, inputs, 1, 1)}
    return shapes | norm(f"{name}.shortcut.1", outputs)


def resnet(stages: tuple[int, ...] = (2, 1, 2, 1), out: int = 10) -> Shapes:
    """avg_model.pt of 80 mel bins, 2 channels in the first stage, with its classifier."""
    shapes: Shapes = {"conv1.weight": (2, 1, 3, 3), "projection.weight": (30, out)} | norm("bn1", 2)
    width = 2
    for number, count in enumerate(stages):
        outputs = 2 * 2**number
        for n in range(count):
            name = f"layer{number + 1}.{n}"
            shapes |= block(name, width, outputs)
            if width != outputs:
                shapes |= shortcut(name, width, outputs)
            width = outputs
    return shapes | {"seg_1.weight": (out, 2 * 16 * 10), "seg_1.bias": (out,)}


def campplus(layers: tuple[int, ...] = (2, 1, 2), out: int = 10) -> Shapes:
    shapes: Shapes = {"head.conv1.weight": (2, 1, 3, 3), "head.conv2.weight": (2, 2, 3, 3)}
    shapes |= norm("head.bn1", 2) | norm("head.bn2", 2)
    for n in (1, 2):
        shapes |= block(f"head.layer{n}.0", 2, 2) | shortcut(f"head.layer{n}.0", 2, 2)
        shapes |= block(f"head.layer{n}.1", 2, 2)
    shapes |= {"xvector.tdnn.linear.weight": (8, 20, 5)} | norm("xvector.tdnn.nonlinear.batchnorm", 8)
    width = 8
    for n, count in enumerate(layers, 1):
        for layer in range(1, count + 1):
            name = f"xvector.block{n}.tdnnd{layer}"
            shapes |= norm(f"{name}.nonlinear1.batchnorm", width) | norm(f"{name}.nonlinear2.batchnorm", 8)
            shapes |= {
                f"{name}.linear1.weight": (8, width, 1), f"{name}.cam_layer.linear_local.weight": (4, 8, 3),
                f"{name}.cam_layer.linear1.weight": (4, 8, 1), f"{name}.cam_layer.linear1.bias": (4,),
                f"{name}.cam_layer.linear2.weight": (4, 4, 1), f"{name}.cam_layer.linear2.bias": (4,),
            }  # fmt: skip
            width += 4
        shapes |= norm(f"xvector.transit{n}.nonlinear.batchnorm", width)
        shapes |= {f"xvector.transit{n}.linear.weight": (width // 2, width, 1)}
        width //= 2
    shapes |= norm("xvector.out_nonlinear.batchnorm", width)
    dense = "xvector.dense"
    shapes |= norm(f"{dense}.nonlinear.batchnorm", out, affine=False)
    return shapes | {f"{dense}.linear.weight": (out, 2 * width, 1), "projection.weight": (30, out)}


def test_resnet(tmp_path: Path) -> None:
    path, tensors = tmp_path / "avg_model.pt", tensors_of(resnet())
    torch.save(tensors, path)
    made = import_wespeaker(path)
    encoder, head = made.checkpoint.model_config.encoder, made.checkpoint.model_config.heads["speaker"]
    assert isinstance(encoder, ResNetConfig) and isinstance(head, SpeakerConfig)
    assert (encoder.feat_in, encoder.channels, encoder.stages) == (80, 2, (2, 1, 2, 1))
    assert (head.embedding, head.pooling, head.pool_norm, head.embedding_norm) == (
        10, "statistics", False, False
    )  # fmt: skip
    assert "projection.weight" in made.report.text() and "ResNet34" in made.report.text()
    pairs = {
        "encoder.stages.2.0.shortcut.1.running_var": "layer3.0.shortcut.1.running_var",
        "encoder.stages.0.1.norm2.bias": "layer1.1.bn2.bias", "heads.speaker.out.weight": "seg_1.weight",
    }  # fmt: skip
    for ours, original in pairs.items():
        assert torch.equal(made.checkpoint.weights[ours], tensors[original])


def test_campplus(tmp_path: Path) -> None:
    path, tensors = tmp_path / "avg_model.pt", tensors_of(campplus())
    torch.save(tensors, path)
    made = import_wespeaker(path)
    encoder, head = made.checkpoint.model_config.encoder, made.checkpoint.model_config.heads["speaker"]
    assert isinstance(encoder, CamConfig) and isinstance(head, SpeakerConfig)
    sizes = (encoder.feat_in, encoder.front_channels, encoder.channels, encoder.growth, encoder.bottleneck)
    assert sizes == (80, 2, 8, 4, 2) and encoder.layers == (2, 1, 2) and head.embedding_norm
    pairs = {
        "encoder.layers.1.layers.0.local.weight": "xvector.block2.tdnnd1.cam_layer.linear_local.weight",
        "encoder.plane.stages.1.0.norm2.weight": "head.layer2.0.bn2.weight",
        "encoder.layers.2.norm.bias": "xvector.transit3.nonlinear.batchnorm.bias",
    }  # fmt: skip
    for ours, original in pairs.items():
        assert torch.equal(made.checkpoint.weights[ours], tensors[original])
    assert not made.checkpoint.weights["heads.speaker.out.bias"].any()


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    planes, cam, path = tensors_of(resnet()), tensors_of(campplus()), tmp_path / "a.pt"
    name = "layer2.0.bn1.weight"
    cases: list[tuple[Any, str]] = [
        ({k: v for k, v in planes.items() if k != name}, "lacks tensors of a ResNet34"),
        (planes | {"layer1.0.conv3.weight": torch.zeros(1)}, "does not have: layer1.0.conv3.weight"),
        (planes | {name: torch.zeros(3)}, f"{name} has shape"),
        ({k: v for k, v in planes.items() if k != "seg_1.weight"}, "lacks the tensor"),
        ({k: v for k, v in cam.items() if not k.startswith("head.")}, "lacks the tensor head.conv1.weight"),
        (cam | {"xvector.more": torch.zeros(1)}, "a CAM.* does not have: xvector.more"),
        ({"a": torch.zeros(1)}, "holds no ResNet34"), ({"model": {}}, "holds no state dict"),
    ]  # fmt: skip
    for content, complaint in cases:
        torch.save(content, path)
        with pytest.raises(MayaError, match=complaint):
            import_wespeaker(path)


@pytest.mark.parametrize("shapes", [resnet(), campplus()])
def test_converted_weights_verify(shapes: Shapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tensors_of(shapes), tmp_path / "a.pt")
    convert(parser().parse_args(["convert", "wespeaker", str(tmp_path / "a.pt"), str(tmp_path / "out")]))
    assert "wespeaker" in capsys.readouterr().out
    encoder = load_encoder(str(tmp_path / "out" / "best.pt"))
    embedding = encoder.embed([0.1 * torch.randn(16000), 0.1 * torch.randn(9000)])
    assert embedding.shape == (2, 10)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
