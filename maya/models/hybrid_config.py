"""What a hybrid model is made of: any features, encoder, transducer and heads that fit together."""

import dataclasses
from dataclasses import field
from typing import Annotated, Literal

from maya.config import config
from maya.encoders import AnyEncoderConfig, FastConformerConfig
from maya.errors import MayaError
from maya.features import FeaturesConfig, LogMelConfig
from maya.features.noise import NoiseConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads.attention import AttentionDecoderConfig
from maya.heads.transducer import AnyPredictorConfig, JointConfig, PredictorConfig
from maya.ranges import BelowOne, Count, Distinct, NonNegFloat, NotEmpty, Range, Share


@config
class PrunedConfig:
    """Pruned RNN-T (Kuang et al. 2022, arXiv:2206.13236), with the constants of icefall's recipes.

    Over `HybridConfig.loss_warmup` steps the simple loss goes from weight 1 to `simple_scale` and the pruned
    one from 0.1 to 1: windows are worth little before the simple joiner knows where the alignment lies.
    """

    s_range: Annotated[int, Range(min=2)] = 5  # label positions that a frame keeps
    simple_scale: NonNegFloat = 0.5
    lm_scale: Share = 0.25  # share of the simple loss's arcs that the predictor has to score alone
    am_scale: Share = 0.0  # and the encoder
    rnnt_type: Literal["regular", "modified", "constrained"] = "regular"
    delay_penalty: NonNegFloat = 0.0  # nats that a label gains for each frame it comes earlier


@config
class HybridConfig:
    """What a hybrid model is. `vocab_size` (pieces without blank) is filled in from the tokenizer."""

    features: FeaturesConfig = field(default_factory=LogMelConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    encoder: AnyEncoderConfig = field(default_factory=FastConformerConfig)
    predictor: AnyPredictorConfig = field(default_factory=PredictorConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    vocab_size: Count = 0
    # The tokenizer's piece 0 is no text but the blank, as in icefall's models; else blank has an id of its
    # own, after the pieces.
    blank_first: bool = False
    languages: Annotated[tuple[str, ...], Distinct()] = ()
    transducer: Literal["tdt", "rnnt", "pruned", "none"] = "tdt"
    durations: Annotated[tuple[Count, ...], NotEmpty()] = (0, 1, 2, 3, 4)
    sigma: NonNegFloat = 0.02  # TDT logit under-normalisation; NeMo's recipes use 0.02, the paper 0.05
    omega: Share = 0.1  # probability of the plain RNN-T loss on a step, training only
    loss_eps: BelowOne = 1e-4  # cells with less posterior mass are left out of the gradient; 0: none
    pruned: PrunedConfig = field(default_factory=PrunedConfig)
    ctc_weight: Share = 0.3  # 0 trains without CTC, 1 with CTC alone
    ctc_dropout: BelowOne = 0.0  # before the CTC head
    # CR-CTC (Yao et al. 2024, arXiv:2410.05101): every batch is masked twice, and the two shall be recognised
    # alike. The paper's 0.2 with CTC alone, 0.02 beside a transducer or an attention decoder.
    cr_ctc_weight: NonNegFloat = 0.0
    attention_weight: Share = (
        0.0  # the attention decoder's share of the loss, the rest is the others'; 0: none
    )
    attention_decoder: AttentionDecoderConfig = field(default_factory=AttentionDecoderConfig)
    loss_warmup: Count = 2000  # steps over which the pruned loss and CR-CTC come in
    language_embedding: bool = False
    language_init: NonNegFloat = 0.02  # standard deviation of the embedding at the start
    language_dropout: Share = 0.1  # probability that training hides the language, so it may be unknown later
    # Of the loss that tells the language from the encoder; 0: no such head
    language_id_weight: NonNegFloat = 0.0

    @property
    def labels(self) -> int:
        """Token ids that stand for text: the vocabulary without blank."""
        return self.vocab_size - 1 if self.blank_first else self.vocab_size

    @property
    def blank(self) -> int:
        """The blank's id."""
        return 0 if self.blank_first else self.vocab_size


def check(cfg: HybridConfig) -> None:
    """Refuse a configuration that cannot be built, with the reason (MayaError)."""
    if cfg.labels <= 0:
        raise MayaError("the model has no vocabulary yet: set model.vocab_size, or train a tokenizer first")
    if cfg.transducer == "none" and cfg.ctc_weight == 0 and cfg.attention_weight == 0:
        raise MayaError(
            "the model has no head: give it a transducer, or a ctc_weight or attention_weight above 0"
        )
    if cfg.cr_ctc_weight and not cfg.ctc_weight:
        raise MayaError("model.cr_ctc_weight needs a CTC head: give model.ctc_weight more than 0")
    if cfg.language_embedding and not cfg.languages:
        raise MayaError("a language embedding needs model.languages")
    if cfg.language_id_weight and not cfg.languages:
        raise MayaError("model.language_id_weight needs model.languages to tell apart")
    if list(cfg.durations) != sorted(set(cfg.durations)) or max(cfg.durations) < 1:
        raise MayaError(f"model.durations must ascend from 0 or more, not {cfg.durations}")
    check_features(cfg.features, cfg.encoder)


def check_features(features: FeaturesConfig, encoder: AnyEncoderConfig) -> None:
    """MayaError unless the encoder takes so many mel bins."""
    if features.num_mels != encoder.feat_in:
        raise MayaError(f"{features.num_mels} mel bins do not fit an encoder that takes {encoder.feat_in}")


def nemo_parts(cfg: HybridConfig, what: str) -> tuple[LogMelConfig, FastConformerConfig, PredictorConfig]:
    """Features, encoder and predictor of a model with the parts that NeMo's have; MayaError says that `what`
    knows no others."""
    for part, kind in (
        (cfg.features, LogMelConfig), (cfg.encoder, FastConformerConfig), (cfg.predictor, PredictorConfig),
    ):  # fmt: skip
        if not isinstance(part, kind):
            raise MayaError(
                f"{what} knows models of log-mel features, FastConformer and an LSTM predictor; this one has "
                f"{part.kind}"
            )
    if cfg.transducer == "pruned" or cfg.attention_weight or cfg.blank_first:
        head = "an attention decoder" if cfg.attention_weight else "a pruned transducer or its blank first"
        raise MayaError(f"{what} knows TDT, RNN-T and CTC heads; this model has {head}")
    assert isinstance(cfg.features, LogMelConfig) and isinstance(cfg.encoder, FastConformerConfig)
    assert isinstance(cfg.predictor, PredictorConfig)
    return cfg.features, cfg.encoder, cfg.predictor


def with_vocabulary(cfg: HybridConfig, vocab_size: int, languages: tuple[str, ...]) -> HybridConfig:
    """A copy of the configuration for a tokenizer's vocabulary and a corpus's languages."""
    return dataclasses.replace(cfg, vocab_size=vocab_size, languages=languages)
