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

Family = Literal["ctc", "rnnt", "hybrid"]


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
        if part is not None and not isinstance(part, kind):
            raise MayaError(
                f"{target} supports log-mel features, FastConformer and an LSTM predictor; this model has "
                f"{part.kind}"
            )
    pruned = transducer is not None and transducer.loss == "pruned"
    if pruned or heads.attention or cfg.blank_first or not (transducer or heads.ctc):
        other = "a pruned transducer" if pruned else "an attention decoder" if heads.attention else None
        other = other or ("its blank first" if cfg.blank_first else "none of them")
        raise MayaError(f"{target} supports TDT, RNN-T and CTC heads; this model has {other}")
    assert isinstance(features, LogMelConfig) and isinstance(encoder, FastConformerConfig)
    assert predictor is None or isinstance(predictor, PredictorConfig)
    return NemoParts(
        features=features, encoder=encoder, transducer=transducer, predictor=predictor, ctc=heads.ctc
    )
