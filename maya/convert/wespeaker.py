"""Weights of wespeaker's ResNet34 and CAM++, by their names."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from maya.convert.conversion import Conversion
from maya.convert.ecapa import HEAD, state_dict_of, voice_conversion
from maya.encoders import CamConfig, EncoderConfig, ResNetConfig
from maya.errors import MayaError
from maya.features.voice_fbank import VoiceFbankConfig
from maya.heads import SpeakerConfig
from maya.models.config import SpeechModelConfig

# What becomes of a part of a name, in this order; <n> is a number that is counted from 1 in the file.
_RESNET = (
    (r"^conv1", "encoder.conv"), (r"^bn1", "encoder.norm"), (r"^layer(\d+)", r"encoder.stages.<\1>"),
    (r"\.bn(\d)", r".norm\1"), (r"^seg_1", f"{HEAD}.out"),
)  # fmt: skip
_CAM = (
    (r"^head\.layer(\d+)", r"encoder.plane.stages.<\1>"), (r"^head", "encoder.plane"),
    (r"\.bn(\d)", r".norm\1"),
    (r"^xvector\.tdnn\.linear", "encoder.input"), (r"^xvector\.tdnn\.nonlinear\.batchnorm", "encoder.norm"),
    (r"^xvector\.block(\d+)\.tdnnd(\d+)", r"encoder.layers.<\1>.layers.<\2>"),
    (r"\.nonlinear(\d)\.batchnorm", r".norm\1"), (r"\.cam_layer\.linear_local", ".local"),
    (r"\.cam_layer\.linear1", ".squeeze"), (r"\.cam_layer\.linear2", ".excite"), (r"\.linear1", ".narrow"),
    (r"^xvector\.transit(\d+)\.nonlinear\.batchnorm", r"encoder.layers.<\1>.norm"),
    (r"^xvector\.transit(\d+)\.linear", r"encoder.layers.<\1>.narrow"),
    (r"^xvector\.out_nonlinear\.batchnorm", "encoder.last_norm"),
    (r"^xvector\.dense\.linear", f"{HEAD}.out"),
    (r"^xvector\.dense\.nonlinear\.batchnorm", f"{HEAD}.out_norm"),
)  # fmt: skip
_LINEAR = re.compile(rf"({re.escape(HEAD)}\.out|.*\.(narrow|squeeze|excite))\.weight")


def import_wespeaker(source: str | Path) -> Conversion:
    """A file of weights of wespeaker, avg_model.pt, with a ResNet34 or a CAM++.

    The dilations of CAM++ are not in the weights: 1, 2, 2 are assumed. The classifier of the training
    speakers is left out, because their names are not in the file. Raises MayaError for other weights.
    """
    path = Path(source)
    stored = state_dict_of(path)
    is_cam = "xvector.tdnn.linear.weight" in stored
    if not is_cam and not {"conv1.weight", "layer1.0.conv1.weight"} <= set(stored):
        raise MayaError(f"{path} holds no ResNet34 or CAM++ of wespeaker")
    dropped = sorted(name for name in stored if name.startswith("projection."))
    kept = {name: x for name, x in stored.items() if name not in dropped}
    original = {_our_name(name, is_cam): name for name in kept}
    weights = {ours: _shaped(ours, kept[name]) for ours, name in original.items()}
    try:
        encoder = _campplus(stored) if is_cam else _resnet(stored)
        size = len(weights[f"{HEAD}.out.weight"])
    except KeyError as error:
        raise MayaError(f"{path} lacks the tensor {error.args[0]}") from None
    head = SpeakerConfig(
        variant="wespeaker", pooling="statistics", embedding=size, pool_norm=False, embedding_norm=is_cam
    )
    if is_cam:  # a norm without scale and shift, behind a layer without bias
        weights |= {f"{HEAD}.out_norm.weight": torch.ones(size)}
        weights |= {f"{HEAD}.{name}.bias": torch.zeros(size) for name in ("out", "out_norm")}
    config = SpeechModelConfig(
        features=VoiceFbankConfig(style="wespeaker", num_mels=encoder.feat_in), encoder=encoder,
        heads={"speaker": head},
    )  # fmt: skip
    names = {ours: (name, kept[name]) for ours, name in original.items()}
    return voice_conversion(path, config, weights, names, dropped, "CAM++" if is_cam else "ResNet34")


def _our_name(name: str, is_cam: bool) -> str:
    for pattern, ours in _CAM if is_cam else _RESNET:
        name = re.sub(pattern, ours, name)
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) - 1), name)


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """A 1×1 convolution as the weight of a linear layer, in fp32."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.squeeze(-1) if _LINEAR.fullmatch(name) and tensor.dim() == 3 else tensor


def _count(stored: Mapping[str, Tensor], pattern: str) -> int:
    """How many different beginnings of names match."""
    return len({match[0] for name in stored if (match := re.match(pattern, name))})


def _resnet(stored: Mapping[str, Tensor]) -> EncoderConfig:
    channels = len(stored["conv1.weight"])
    stages = [_count(stored, rf"layer{n + 1}\.\d+\.") for n in range(_count(stored, r"layer\d+\."))]
    rows = stored["seg_1.weight"].shape[1] // (2 * channels)
    return ResNetConfig(feat_in=rows, channels=channels, stages=tuple(stages))


def _campplus(stored: Mapping[str, Tensor]) -> EncoderConfig:
    first, local = stored["xvector.tdnn.linear.weight"], "xvector.block1.tdnnd1.cam_layer.linear_local.weight"
    growth, width, kernel = stored[local].shape
    front = len(stored["head.conv1.weight"])
    blocks = _count(stored, r"xvector\.block\d+\.")
    return CamConfig(
        feat_in=first.shape[1] // front * 8, front_channels=front, channels=len(first), growth=growth,
        bottleneck=width // growth, kernel=kernel, dilations=(1, 2, 2)[:blocks],
        layers=tuple(_count(stored, rf"xvector\.block{n + 1}\.tdnnd\d+\.") for n in range(blocks)),
    )  # fmt: skip
