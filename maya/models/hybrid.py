"""The hybrid model of NeMo's recipes: a transducer, CTC and an attention decoder over one encoder.

Presets, converters and checkpoints of Maya 0.2 use it; `hybrid` turns it into a `SpeechModelConfig`.
"""

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from maya.config import config
from maya.encoders import EncoderConfig, FastConformerConfig
from maya.errors import MayaError
from maya.features import FeaturesConfig, LogMelConfig
from maya.features.noise import WhiteNoiseConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import AttentionDecoderConfig, CTCConfig, HeadConfig, LanguageConfig, TransducerConfig
from maya.heads.transducer import AnyPredictorConfig, JointConfig, PredictorConfig, PrunedConfig
from maya.models.config import SpeechModelConfig
from maya.ranges import BelowOne, Count, Distinct, NonNegFloat, NotEmpty, Share


@config
class HybridOptions:
    """The options of a hybrid model, as Maya 0.2 kept them in checkpoints. `ctc_weight` is CTC's share of the
    loss of transducer and CTC, `attention_weight` the attention decoder's share of all."""

    features: FeaturesConfig = field(default_factory=LogMelConfig)
    noise: WhiteNoiseConfig = field(default_factory=WhiteNoiseConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    encoder: EncoderConfig = field(default_factory=FastConformerConfig)
    predictor: AnyPredictorConfig = field(default_factory=PredictorConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    vocab_size: Count = 0
    blank_first: bool = False
    languages: Annotated[tuple[str, ...], Distinct()] = ()
    transducer: Literal["tdt", "rnnt", "pruned", "none"] = "tdt"
    durations: Annotated[tuple[Count, ...], NotEmpty()] = (0, 1, 2, 3, 4)
    sigma: NonNegFloat = 0.02
    omega: Share = 0.1
    loss_eps: BelowOne = 1e-4
    pruned: PrunedConfig = field(default_factory=PrunedConfig)
    ctc_weight: Share = 0.3
    ctc_dropout: BelowOne = 0.0
    cr_ctc_weight: NonNegFloat = 0.0
    attention_weight: Share = 0.0
    attention_decoder: AttentionDecoderConfig = field(default_factory=AttentionDecoderConfig)
    loss_warmup: Count = 2000
    language_embedding: bool = False
    language_init: NonNegFloat = 0.02
    language_dropout: Share = 0.1
    language_id_weight: NonNegFloat = 0.0
    ctc_first: Count = 0  # steps at the start with CTC alone
    ctc_ramp: Count = 0  # steps at the start over which CTC's weight rises from 0

    def heads(self) -> dict[str, HeadConfig]:
        """The heads that these options ask for."""
        heads: dict[str, HeadConfig] = {}
        share = 1 - self.attention_weight
        ctc = self.ctc_weight if self.transducer != "none" else float(self.ctc_weight > 0)
        if self.transducer != "none":
            heads["transducer"] = TransducerConfig(
                loss=self.transducer, predictor=self.predictor, joint=self.joint, durations=self.durations,
                sigma=self.sigma, omega=self.omega, loss_eps=self.loss_eps,
                pruned=replace(self.pruned, warmup_steps=self.loss_warmup),
                weight=share * (1 - ctc), first_step=self.ctc_first,
            )  # fmt: skip
        if ctc:
            heads["ctc"] = CTCConfig(
                dropout=self.ctc_dropout, weight=share * ctc, ramp_steps=self.ctc_ramp,
                consistency_weight=self.cr_ctc_weight / (share * ctc) if share else 0.0,
                consistency_warmup=self.loss_warmup,
            )  # fmt: skip
        if self.attention_weight:
            heads["attention"] = replace(self.attention_decoder, weight=self.attention_weight)
        if self.language_id_weight:
            heads["language"] = LanguageConfig(weight=self.language_id_weight)
        if self.cr_ctc_weight and not ctc:
            raise MayaError("cr_ctc_weight needs a CTC head: give ctc_weight more than 0")
        return heads

    def model_config(self) -> SpeechModelConfig:
        """The configuration of the model."""
        same = (
            *("features", "noise", "specaugment", "encoder", "vocab_size", "blank_first", "languages"),
            *("language_embedding", "language_init", "language_dropout"),
        )
        return SpeechModelConfig(heads=self.heads(), **{name: getattr(self, name) for name in same})


def hybrid(**options: Any) -> SpeechModelConfig:
    """The configuration of a hybrid model; `options` are the fields of `HybridOptions`."""
    return HybridOptions(**options).model_config()
