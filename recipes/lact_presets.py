"""LaCT encoders by size, and models around them. Each call builds a fresh configuration: a recipe may change
its fields.

`streaming(lact_small())` of `maya.encoders.lact.config` is any of them in the form that streams.
"""

from typing import Any, Literal

from maya.encoders.lact.config import LaCTConfig
from maya.features import LogMelConfig, SpecAugmentConfig
from maya.heads import CTCConfig, HeadConfig, TransducerConfig
from maya.heads.transducer import JointConfig, PredictorConfig, StatelessConfig
from maya.models.config import SpeechModelConfig


def lact(
    encoder: LaCTConfig,
    loss: Literal["rnnt", "tdt"] | None,
    *,
    mels: int = 80,
    hidden: int = 640,
    predictor: Literal["lstm", "stateless"] = "lstm",
) -> SpeechModelConfig:
    """A LaCT encoder with CTC alone (loss None), or with RNN-T or TDT (durations 0 to 4) with CTC beside it.

    `hidden` is the width of predictor and joint, 640 as in FastConformer. Features, masks and the dropout of
    the heads are FastConformer's too.
    """
    encoder.feat_in = mels
    by_name: dict[str, HeadConfig] = {}
    if loss is not None:
        lstm, stateless = PredictorConfig(hidden=hidden, layers=1), StatelessConfig(hidden=hidden)
        by_name["transducer"] = TransducerConfig(
            loss=loss,
            predictor=stateless if predictor == "stateless" else lstm,
            joint=JointConfig(hidden=hidden, dropout=0.2),
            weight=0.7,
        )
    by_name["ctc"] = CTCConfig(weight=0.3 if by_name else 1.0)
    return SpeechModelConfig(
        features=LogMelConfig(num_mels=mels), specaugment=SpecAugmentConfig(), encoder=encoder, heads=by_name
    )


def lact_tiny(**options: Any) -> LaCTConfig:
    """1 M parameters, 3 layers × 96, for a few hours of speech: learns on a laptop CPU."""
    sizes: dict[str, Any] = {"d_model": 96, "n_layers": 3, "n_heads": 4, "fast_heads": 2, "ff_dim": 576}
    sizes |= {"subsampling_channels": 32, "feat_in": 40, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}
    return LaCTConfig(**(sizes | options))


def lact_small(**options: Any) -> LaCTConfig:
    """14 M parameters, 16 layers × 176, beside FastConformer's "small"."""
    sizes: dict[str, Any] = {"d_model": 176, "n_layers": 16, "n_heads": 4, "fast_heads": 4, "ff_dim": 704}
    return LaCTConfig(**(sizes | options))


def lact_base(**options: Any) -> LaCTConfig:
    """100 M parameters: 12 layers × 768, 4 fast-weight heads."""
    sizes: dict[str, Any] = {"d_model": 768, "n_layers": 12, "n_heads": 12, "fast_heads": 4, "ff_dim": 1024}
    return LaCTConfig(**(sizes | options))


def lact_improved(**options: Any) -> LaCTConfig:
    """200 M parameters: 18 layers × 1024, 8 fast-weight heads."""
    sizes: dict[str, Any] = {"d_model": 1024, "n_layers": 18, "n_heads": 16, "fast_heads": 8, "ff_dim": 768}
    return LaCTConfig(**(sizes | options))


def lact_large(**options: Any) -> LaCTConfig:
    """500 M parameters: 24 layers × 1536, 12 fast-weight heads."""
    sizes: dict[str, Any] = {"d_model": 1536, "n_layers": 24, "n_heads": 24, "fast_heads": 12, "ff_dim": 512}
    return LaCTConfig(**(sizes | options))


LACT_PRESETS = {
    "lact_tiny": lact_tiny,
    "lact_small": lact_small,
    "lact_base": lact_base,
    "lact_improved": lact_improved,
    "lact_large": lact_large,
}
