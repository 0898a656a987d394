"""Configuration of encoders that transformers defines: the family, its sizes, and the length rule of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig, Miniatures
from maya.encoders.hugging_face.folder import folder_of, read_config
from maya.errors import MayaError
from maya.features import (
    ASTFbankConfig,
    FeaturesConfig,
    SeamlessFbankConfig,
    WaveformConfig,
    WhisperMelConfig,
)
from maya.files import read_json
from maya.ranges import Count

Takes = Literal["wave", "seamless", "mel", "patches"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A model_type. takes: its input. cls: the class in transformers. inner: the group of config.json with
    the encoder's settings. mapping: patterns of stored names and what stands for them in the class."""

    takes: Takes
    cls: str
    inner: str = ""
    mapping: tuple[tuple[str, str], ...] = ()


FAMILIES: dict[str, Family] = {
    "wav2vec2": Family(takes="wave", cls="Wav2Vec2Model"),  # XLS-R and MMS too
    "hubert": Family(takes="wave", cls="HubertModel"),
    "wavlm": Family(takes="wave", cls="WavLMModel"),
    "data2vec-audio": Family(takes="wave", cls="Data2VecAudioModel"),
    "wav2vec2-bert": Family(takes="seamless", cls="Wav2Vec2BertModel"),
    "whisper": Family(
        takes="mel", cls="models.whisper.modeling_whisper.WhisperEncoder",
        mapping=((r"^(model\.)?encoder\.", ""),),
    ),
    "qwen2_audio": Family(
        takes="mel", cls="Qwen2AudioEncoder", inner="audio_config",
        mapping=((r"^(model\.)?audio_tower\.", ""),),
    ),
    "qwen2_audio_encoder": Family(takes="mel", cls="Qwen2AudioEncoder"),
    "audio-spectrogram-transformer": Family(takes="patches", cls="ASTModel"),
}  # fmt: skip
# What transformers' classes take where config.json leaves it out, by their input.
DEFAULTS: dict[Takes, dict[str, Any]] = {
    "wave": {"hidden_size": 768, "num_hidden_layers": 12, "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
             "conv_stride": (5, 2, 2, 2, 2, 2, 2)},
    "seamless": {"hidden_size": 1024, "num_hidden_layers": 24, "feature_projection_input_dim": 160},
    "mel": {"d_model": 384, "encoder_layers": 4, "num_mel_bins": 80, "max_source_positions": 1500},
    "patches": {"hidden_size": 768, "num_hidden_layers": 12, "num_mel_bins": 128, "max_length": 1024,
                "patch_size": 16, "time_stride": 10, "frequency_stride": 10},
}  # fmt: skip
QWEN2 = {"d_model": 1280, "encoder_layers": 32, "num_mel_bins": 128}


@config
class HuggingFaceConfig(EncoderConfig):
    """An encoder of transformers; `hugging_face` makes it, and the features that go with it, from a folder.

    folder: of the weights that training begins with, or hf:owner/name; empty: random ones. A checkpoint of
    Maya has all weights, and needs no folder. settings: config.json as text.
    output: the last layer's, or a sum of the states of all layers with learnt weights, equal at the start.
    norm_layers: a layer norm without weights before the sum. language: of an MMS model, whose adapters are
    taken. whole: Whisper and Qwen2-Audio get utterances filled up to 30 s, as they were trained;
    false: only as many frames as the longest has, with attention that sees no padding.
    frozen_layers: so many layers, and all before them, stay as they are; for all of them use train.freeze.
    four_bit: the linear layers of Whisper's or Qwen2-Audio's encoder hold 4-bit weights, and all of it stays
    as it is.
    """

    traceless: ClassVar[tuple[str, ...]] = ("settings", "whole")

    kind: Literal["hugging_face"] = "hugging_face"
    folder: str = ""
    settings: str = '{"model_type": "wav2vec2"}'
    output: Literal["last", "weighted"] = "last"
    norm_layers: bool = False
    language: str = ""
    whole: bool = True
    frozen_layers: Count = 0
    four_bit: bool = False
    activation_checkpointing: bool = False

    @property
    def family(self) -> Family:
        """Raises MayaError for a kind of model that is not read."""
        return family_of(self.values)

    @property
    def values(self) -> dict[str, Any]:
        """The settings of the encoder."""
        return _values(self.settings)

    def value(self, name: str) -> Any:
        """A setting, or transformers' own where config.json leaves it out."""
        default = DEFAULTS[self.family.takes].get(name)
        if self.pools:
            default = QWEN2.get(name, default)
        return self.values.get(name, default)

    @property
    def pools(self) -> bool:
        """Whether pairs of frames are averaged, as in Qwen2-Audio."""
        return self.family.cls == "Qwen2AudioEncoder"

    @property
    def feat_in(self) -> int:
        takes = self.family.takes
        return 1 if takes == "wave" else int(self.value(
            "feature_projection_input_dim" if takes == "seamless" else "num_mel_bins"
        ))  # fmt: skip

    @property
    def d_model(self) -> int:
        return int(self.value("d_model" if self.family.takes == "mel" else "hidden_size"))

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return int(self.value("encoder_layers" if self.family.takes == "mel" else "num_hidden_layers"))

    @property
    def subsampling_factor(self) -> int:
        takes = self.family.takes
        if takes == "wave":
            return prod(self.value("conv_stride"))
        if takes == "patches":
            return int(self.value("time_stride"))
        return 1 if takes == "seamless" else 4 if self.pools else 2

    @property
    def receptive(self) -> int:
        """Feature frames that the first encoder frame needs: 400 samples of a wave."""
        if self.family.takes != "wave":
            return int(self.value("patch_size")) if self.family.takes == "patches" else 1
        frames = 1
        for kernel, stride in reversed(self.convolutions):
            frames = (frames - 1) * stride + kernel
        return frames

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """(kernel, stride) of a wave front's convolutions."""
        return list(zip(self.value("conv_kernel"), self.value("conv_stride"), strict=True))

    def miniatures(self) -> Miniatures:
        """Equal layers keep equal amounts, so one and two of them tell about all."""
        single, double = (
            replace(self, settings=_with_layers(self.settings, n), folder="", frozen_layers=0) for n in (1, 2)
        )
        parts = [(single, 2.0 - self.n_layers, 0.0), (double, self.n_layers - 1.0, 1.0)]
        most = self.longest
        return Miniatures(parts, 24 if most is None else min(24, self.subsampled(most) // 3))

    @property
    def longest(self) -> int | None:
        """The most feature frames that an utterance may have; None: any number."""
        takes = self.family.takes
        if takes == "mel":
            return 2 * int(self.value("max_source_positions"))
        return int(self.value("max_length")) if takes == "patches" else None

    def subsampled(self, frames: Any) -> Any:
        takes = self.family.takes
        if takes == "wave":
            for kernel, stride in self.convolutions:
                frames = (frames - kernel) // stride + 1
        elif takes == "mel":
            frames = (frames - 1) // 2 + 1
            frames = frames // 2 if self.pools else frames
        elif takes == "patches":
            frames = (frames - int(self.value("patch_size"))) // int(self.value("time_stride")) + 1
        return frames * (frames > 0)


@lru_cache
def _values(settings: str) -> dict[str, Any]:
    try:
        values = json.loads(settings)
        kind = str(values["model_type"])
    except (ValueError, TypeError, KeyError) as error:
        raise MayaError("encoder.settings is not the text of a config.json with a model_type") from error
    inner = FAMILIES[kind].inner if kind in FAMILIES else ""
    return {**(values.get(inner) or {}), "model_type": kind} if inner else dict(values)


def _with_layers(settings: str, count: int) -> str:
    values = json.loads(settings)
    family = FAMILIES[values["model_type"]]
    own = values[family.inner] if family.inner else values
    own["encoder_layers" if family.takes == "mel" else "num_hidden_layers"] = count
    return json.dumps(values)


def family_of(values: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises MayaError for a kind that is not read, and for settings of it."""
    kind = str(values.get("model_type"))
    if kind not in FAMILIES:
        kinds = ", ".join(FAMILIES)
        raise MayaError(f"a model of type {kind!r} is no encoder that Maya reads; it reads {kinds}")
    if values.get("add_adapter"):
        raise MayaError(
            "this model has strided layers behind its encoder (add_adapter), whose frames depend on padding; "
            "set add_adapter to false in its config.json, which leaves them out"
        )
    return FAMILIES[kind]


def hugging_face(
    name: str | Path, *, whole: bool = True, **options: Any
) -> tuple[FeaturesConfig, HuggingFaceConfig]:  # fmt: skip
    """The features and the encoder of a folder, or of `hf:owner/name`, for a `SpeechModelConfig`.

    options: other fields of `HuggingFaceConfig`. Raises MayaError for a folder without config.json, for a
    kind of model that is not read, and for a language that an MMS folder does not have.
    """
    folder = folder_of(name)
    values = read_config(folder)
    family_of(values)
    cfg = HuggingFaceConfig(folder=str(name), settings=json.dumps(values), whole=whole, **options)
    languages = adapter_languages(folder)
    if cfg.values.get("adapter_attn_dim") is not None and cfg.language not in languages:
        shown = ", ".join(languages[:8]) + (" ..." if len(languages) > 8 else "")
        has = f"it has {shown}" if languages else "it has none: take the adapter.LANGUAGE.safetensors too"
        wanted = f"no adapters for language {cfg.language!r}" if cfg.language else "adapters by language"
        raise MayaError(f"{folder} has {wanted}: set the encoder's language; {has}")
    return features_for(cfg, folder), cfg


def adapter_languages(folder: Path) -> list[str]:
    """The languages of an MMS folder's adapters."""
    return sorted(path.name.split(".")[1] for path in folder.glob("adapter.*.safetensors"))


def features_for(cfg: HuggingFaceConfig, folder: Path | None = None) -> FeaturesConfig:
    """The features that an encoder takes. Its folder says if waves are normalised; by default they are."""
    takes = cfg.family.takes
    stored = read_json(folder / "preprocessor_config.json") if folder is not None else {}
    if takes == "wave":
        rate = int(stored.get("sampling_rate", 16000))
        return WaveformConfig(sample_rate=rate, normalize=bool(stored.get("do_normalize", True)))
    if takes == "seamless":
        stack = int(stored.get("stride", 2))
        return SeamlessFbankConfig(bins=cfg.feat_in // stack, stack=stack)
    if takes == "mel":
        seconds = int(cfg.value("max_source_positions")) / 50 if cfg.whole else 0.0
        return WhisperMelConfig(num_mels=cfg.feat_in, seconds=seconds)
    features = ASTFbankConfig(num_mels=cfg.feat_in, length=int(cfg.value("max_length")))
    features.mean = float(stored.get("mean", features.mean))
    features.std = float(stored.get("std", features.std))
    return features
