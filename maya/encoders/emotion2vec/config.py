"""Options of emotion2vec, and what follows from a published folder."""

import re
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig
from maya.encoders.state_files import read_torch, state_dict
from maya.errors import MayaError
from maya.features import WaveformConfig
from maya.ranges import BelowOne, Count, PosFloat, PosInt

SETTINGS, WEIGHTS = "config.yaml", ("model.pt", "emotion2vec_base.pt")
_GUARD = 1e-5  # in the normalisation of its waveform
# Names in model_conf and in its modalities.audio, and the fields here.
_MODEL = {"embed_dim": "d_model", "depth": "depth", "num_heads": "heads", "norm_eps": "norm_eps",
          "encoder_dropout": "dropout", "attention_dropout": "attention_dropout"}  # fmt: skip
_AUDIO = {"prenet_depth": "prenet_depth", "conv_pos_depth": "position_layers",
          "conv_pos_width": "position_width", "conv_pos_groups": "position_groups",
          "num_extra_tokens": "extra_tokens"}  # fmt: skip
# Settings of all published models; another value is another network.
_FIXED_MODEL = {"layer_norm_first": False, "norm_affine": True}
_FIXED_AUDIO = {"extractor_mode": "layer_norm", "use_alibi_encoder": True, "learned_alibi": False,
                "conv_pos_pre_ln": False}  # fmt: skip
_TUPLES = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*\]?\s*(?:\*\s*(\d+))?")


@config
class Emotion2vecConfig(EncoderConfig):
    """emotion2vec (Ma et al. 2023, arXiv:2312.15185), whose network is data2vec 2.0 (Baevski et al. 2022,
    arXiv:2212.07525). The defaults are those of emotion2vec_base.

    start: the file of the weights that training begins with; empty: random ones. A checkpoint of Maya has all
    weights, and needs no file. conv_dim, conv_kernels, conv_strides: of the convolutions of the waveform.
    position_layers: convolutions that tell positions, together `position_width` wide. extra_tokens: learnt
    ones before the frames, left out of the output. prenet_depth, depth: blocks, of which the former have no
    meaning of their own here: the layers are all of them. scales: learnt factors of the distances in
    attention, one for each block or one for all; scale_heads: for each head or one for all.
    """

    traceless: ClassVar[tuple[str, ...]] = ("heads", "conv_strides", "norm_eps")

    kind: Literal["emotion2vec"] = "emotion2vec"
    start: str = ""
    d_model: PosInt = 768
    prenet_depth: Count = 4
    depth: PosInt = 8
    heads: PosInt = 12
    ff_dim: PosInt = 3072
    conv_dim: PosInt = 512
    conv_kernels: tuple[PosInt, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[PosInt, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_layers: PosInt = 5
    position_width: PosInt = 95
    position_groups: PosInt = 16
    extra_tokens: Count = 10
    scales: PosInt = 12
    scale_heads: PosInt = 12
    norm_eps: PosFloat = 1e-5
    dropout: BelowOne = 0.1
    attention_dropout: BelowOne = 0.1

    @property
    def feat_in(self) -> int:
        """1: the waveform."""
        return 1

    @property
    def n_layers(self) -> int:
        """All blocks."""
        return self.prenet_depth + self.depth

    @property
    def subsampling_factor(self) -> int:
        return prod(self.conv_strides)

    @property
    def receptive(self) -> int:
        """Samples that the first frame needs: 400."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def subsampled(self, frames: Any) -> Any:
        """Windows that lie in so many samples."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames * (frames > 0)


def emotion2vec(source: str | Path, **options: Any) -> tuple[WaveformConfig, Emotion2vecConfig]:
    """The features and the encoder of a folder of FunASR: model.pt or emotion2vec_base.pt, with config.yaml.
    The names are those of the fairseq checkpoint too. options: of `Emotion2vecConfig`. Raises MayaError for
    other files, and for settings of a network that none of the published models has."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    names = [name for name in WEIGHTS if (folder / name).is_file()]
    if path.is_dir() and not names:
        raise MayaError(f"{path} has no {WEIGHTS[0]}; take the whole folder")
    weights = folder / names[0] if path.is_dir() else path
    model, audio = _settings(folder / SETTINGS)
    stored = state_dict(read_torch(weights), weights)
    scale = stored.get("modality_encoders.AUDIO.alibi_scale")
    mlp = stored.get("blocks.0.mlp.fc1.weight")
    if scale is None or mlp is None:
        raise MayaError(
            f"{weights} is no emotion2vec: it lacks blocks.0.mlp.fc1.weight or the scales of ALiBi"
        )
    convolutions = _convolutions(str(audio.get("feature_encoder_spec", "")), folder / SETTINGS)
    fields = {ours: model[name] for name, ours in _MODEL.items() if name in model}
    fields |= {ours: audio[name] for name, ours in _AUDIO.items() if name in audio}
    fields |= {
        "start": str(weights), "ff_dim": len(mlp), "conv_dim": convolutions[0][0],
        "conv_kernels": tuple(c[1] for c in convolutions), "conv_strides": tuple(c[2] for c in convolutions),
        "scales": scale.shape[-5] if scale.dim() == 5 else 1, "scale_heads": scale.shape[-3],
    }  # fmt: skip
    features = WaveformConfig(normalize=bool(model.get("normalize", True)), variance_guard=_GUARD)
    return features, Emotion2vecConfig(**fields | options)


def _settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """model_conf and its modalities.audio."""
    import yaml  # only here: transcription needs none

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = dict(values["model_conf"])
        audio = dict(model["modalities"]["audio"])
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
        kind = type(error).__name__
        raise MayaError(
            f"{path} is no readable config.yaml of emotion2vec ({kind}); take the whole folder"
        ) from None
    for group, fixed in ((model, _FIXED_MODEL), (audio, _FIXED_AUDIO)):
        for name, value in fixed.items():
            if group.get(name, value) != value:
                raise MayaError(
                    f"{path}: {name}={group[name]!r} is not read; published emotion2vecs have {value!r}"
                )
    return model, audio


def _convolutions(spec: str, path: Path) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, from a text such as "[(512, 10, 5)] + [(512,3,2)] * 4".
    The original evaluates it as Python; here only lists of numbers are read."""
    out: list[tuple[int, int, int]] = []
    for *sizes, times in _TUPLES.findall(spec):
        out += [(int(sizes[0]), int(sizes[1]), int(sizes[2]))] * int(times or 1)
    rest = re.sub(r"[\[\]+\s,]", "", _TUPLES.sub("", spec))
    if not out or rest or len({channels for channels, *_ in out}) > 1:
        raise MayaError(f"{path}: feature_encoder_spec {spec!r} is no list of convolutions of one width")
    return out
