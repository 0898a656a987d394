"""The parts of a model that NeMo's FastConformers have too."""

from dataclasses import dataclass
from typing import Any, Literal

from maya.convert.heads import text_heads
from maya.encoders import FastConformerConfig
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.heads import CTCConfig, TransducerConfig
from maya.heads.transducer import PredictorConfig
from maya.models.config import SpeechModelConfig

Family = Literal["ctc", "rnnt", "hybrid", "canary"]
# Settings of the encoder that have the same value in both systems: key of the yaml -> (field of
# FastConformerConfig, NeMo's default, or the type of a key without default).
ENCODER: dict[str, tuple[str, Any]] = {
    "feat_in": ("feat_in", int), "d_model": ("d_model", int), "n_layers": ("n_layers", int),
    "n_heads": ("n_heads", 4), "ff_expansion_factor": ("ff_expansion", 4),
    "conv_kernel_size": ("conv_kernel", 31), "subsampling_factor": ("subsampling_factor", 4),
    "subsampling": ("subsampling", "striding"), "causal_downsampling": ("causal_downsampling", False),
    "xscaling": ("xscaling", True), "use_bias": ("use_bias", True), "untie_biases": ("untie_biases", True),
    "dropout": ("dropout", 0.1), "dropout_pre_encoder": ("dropout_pre_encoder", 0.1),
    "dropout_emb": ("dropout_emb", 0.1), "dropout_att": ("dropout_att", 0.0),
    "stochastic_depth_drop_prob": ("layer_drop", 0.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class NemoParts:
    """The configurations of the parts. A model without transducer has no `predictor`."""

    features: LogMelConfig
    encoder: FastConformerConfig
    transducer: TransducerConfig | None
    predictor: PredictorConfig | None
    ctc: CTCConfig | None

    @property
    def family(self) -> Family:
        """Which of NeMo's classes has these heads."""
        if self.transducer is None:
            return "ctc"
        return "rnnt" if self.ctc is None else "hybrid"

    @property
    def durations(self) -> tuple[int, ...]:
        """The durations that the joint scores; empty unless the transducer is a TDT."""
        tdt = self.transducer is not None and self.transducer.loss == "tdt"
        return self.transducer.durations if self.transducer is not None and tdt else ()


def nemo_parts(cfg: SpeechModelConfig, target: str) -> NemoParts:
    """The parts of a model. Raises MayaError, naming the `target` of the export, if NeMo lacks one."""
    heads = text_heads(cfg, target)
    features, encoder, transducer = cfg.features, cfg.encoder, heads.transducer
    predictor = transducer.predictor if transducer else None
    part: Any
    for part, kind in (
        (features, LogMelConfig),
        (encoder, FastConformerConfig),
        (predictor, PredictorConfig),
    ):
        if part is not None and type(part) is not kind:  # a subclass may be another network
            raise MayaError(
                f"{target} supports log-mel features, FastConformer and an LSTM predictor; this model has "
                f"{part.kind}"
            )
    assert isinstance(features, LogMelConfig) and isinstance(encoder, FastConformerConfig)
    if features.normalize == "peak":
        raise MayaError(f"{target} does not support features.normalize=peak, which this model has")
    if encoder.fast_weights is not None or encoder.global_tokens:
        raise MayaError(f"{target} supports neither fast weights nor global tokens, which this encoder has")
    pruned = transducer is not None and transducer.loss == "pruned"
    if pruned or heads.attention or cfg.blank_first or not (transducer or heads.ctc):
        other = "a pruned transducer" if pruned else "an attention decoder" if heads.attention else None
        other = other or ("its blank first" if cfg.blank_first else "none of them")
        raise MayaError(f"{target} supports TDT, RNN-T and CTC heads; this model has {other}")
    assert predictor is None or isinstance(predictor, PredictorConfig)
    return NemoParts(
        features=features, encoder=encoder, transducer=transducer, predictor=predictor, ctc=heads.ctc
    )
