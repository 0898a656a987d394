"""Options of SpeechTokenizer, and of the Transformer over its codes."""

from dataclasses import field
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig
from maya.encoders.hugging_face.folder import read_config
from maya.errors import MayaError
from maya.features import WaveformConfig
from maya.ranges import BelowOne, Count, OddInt, PosInt

WEIGHTS = "SpeechTokenizer.pt"
# Names in config.json, and the fields here.
_FIELDS = {
    "n_filters": "n_filters", "strides": "strides", "dimension": "dimension",
    "semantic_dimension": "semantic_dimension", "lstm_layers": "lstm_layers",
    "bidirectional": "bidirectional", "dilation_base": "dilation_base",
    "residual_kernel_size": "residual_kernel", "n_residual_layers": "residual_layers", "n_q": "levels",
    "codebook_size": "codebook_size",
}  # fmt: skip


@config
class SpeechTokenizerConfig(EncoderConfig):
    """SpeechTokenizer (Zhang et al. 2023, arXiv:2308.16692) without its decoder: a SEANet encoder and
    residual vector quantisation. The defaults are those of the published model: 50 frames a second at 16 kHz.

    start: the file of the weights that training begins with; empty: random ones. A checkpoint of Maya has all
    weights, and needs no file. output: the encoder's `latents`; `quantized`, the sum of the code vectors of
    all levels; or `semantic`, the code vector of level 1 projected as it was for HuBERT's features. Hidden
    layer i is the sum of the code vectors of levels 1 to i, and layer 0 the latents.
    """

    traceless: ClassVar[tuple[str, ...]] = ("strides", "dilation_base", "output")

    kind: Literal["speech_tokenizer"] = "speech_tokenizer"
    start: str = ""
    output: Literal["latents", "quantized", "semantic"] = "latents"
    n_filters: PosInt = 64
    strides: tuple[PosInt, ...] = (8, 5, 4, 2)  # the decoder's; the encoder's are in reverse order
    dimension: PosInt = 1024
    semantic_dimension: PosInt = 768
    lstm_layers: Count = 2
    bidirectional: bool = True
    dilation_base: PosInt = 2
    residual_kernel: OddInt = 3
    residual_layers: Count = 1
    levels: PosInt = 8
    codebook_size: PosInt = 1024

    @property
    def feat_in(self) -> int:
        """1: the waveform."""
        return 1

    @property
    def d_model(self) -> int:
        return self.semantic_dimension if self.output == "semantic" else self.dimension

    @property
    def subsampling_factor(self) -> int:
        return prod(self.strides)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        return (self.dimension,) * (self.levels + 1)


@config
class CodesConfig(EncoderConfig):
    """Two stages: the codes of a frozen SpeechTokenizer, then a Transformer that learns.

    levels: of the codes, from the semantic one on; each has embeddings of its own, and those of a frame are
    added. dropout: of these sums.
    """

    traceless: ClassVar[tuple[str, ...]] = ("heads",)

    kind: Literal["codes"] = "codes"
    codec: SpeechTokenizerConfig = field(default_factory=SpeechTokenizerConfig)
    levels: PosInt = 8
    d_model: PosInt = 256
    n_layers: PosInt = 4
    heads: PosInt = 4
    dropout: BelowOne = 0.1

    @property
    def feat_in(self) -> int:
        """1: the waveform."""
        return 1

    @property
    def subsampling_factor(self) -> int:
        return self.codec.subsampling_factor


def speech_tokenizer(source: str | Path, **options: Any) -> tuple[WaveformConfig, SpeechTokenizerConfig]:
    """The features and the encoder of a SpeechTokenizer.pt with its config.json beside it, or of the folder
    of both. options: of `SpeechTokenizerConfig`. Raises MayaError for files that do not fit."""
    path = Path(source)
    weights = path / WEIGHTS if path.is_dir() else path
    values = read_config(weights.parent)
    if missing := [name for name in _FIELDS if name not in values]:
        raise MayaError(f"{weights.parent}/config.json is not SpeechTokenizer's: it lacks {missing[0]}")
    if values.get("activation") != "ELU":
        raise MayaError(
            f"{weights.parent}/config.json: activation {values.get('activation')!r} is not read; ELU is"
        )
    if not weights.is_file():
        raise MayaError(f"there is no file {weights}")
    fields = {ours: values[name] for name, ours in _FIELDS.items()} | {"start": str(weights)} | options
    features = WaveformConfig(sample_rate=int(values.get("sample_rate", 16000)), normalize=False)
    return features, SpeechTokenizerConfig(**fields)


def speech_codes(source: str | Path, **options: Any) -> tuple[WaveformConfig, CodesConfig]:
    """The features and the encoder of two stages over a SpeechTokenizer; see `speech_tokenizer`. options: of
    `CodesConfig`, whose levels are by default all of the tokenizer's."""
    features, codec = speech_tokenizer(source)
    return features, CodesConfig(codec=codec, **{"levels": codec.levels} | options)
