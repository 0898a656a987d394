"""Model presets by architecture, and tokenizers. Each call builds a fresh configuration: a recipe may change
its fields."""

from typing import Any, cast

from maya.encoders import FastConformerConfig, ZipformerConfig
from maya.encoders.zipformer import config as zipformer_config
from maya.features import FbankConfig, LogMelConfig, SpecAugmentConfig
from maya.features.specaugment import lhotse
from maya.heads import CTCConfig, TransducerConfig
from maya.heads.transducer import JointConfig, PredictorConfig, StatelessConfig
from maya.models.config import SpeechModelConfig
from maya.text.tokenizer import TokenizerConfig


def fastconformer_tdt_ctc(
    *,
    d_model: int,
    n_layers: int,
    n_heads: int,
    subsampling_channels: int = 256,
    subsampling_factor: int = 8,
    hidden: int = 640,
    predictor_layers: int = 1,
    dropout: float = 0.1,
    head_dropout: float = 0.2,
    mels: int = 80,
    **encoder: Any,
) -> SpeechModelConfig:
    """A hybrid TDT + CTC FastConformer of any size; `hidden` is the width of predictor and joint, `encoder`
    any other fields of FastConformerConfig."""
    sizes: dict[str, Any] = {
        "feat_in": mels,
        "d_model": d_model,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "subsampling_channels": subsampling_channels,
        "subsampling_factor": subsampling_factor,
        "dropout": dropout,
        "dropout_pre_encoder": dropout,
        "dropout_att": dropout,
    }
    transducer = TransducerConfig(
        predictor=PredictorConfig(hidden=hidden, layers=predictor_layers, dropout=head_dropout),
        joint=JointConfig(hidden=hidden, dropout=head_dropout),
        weight=0.7,
    )
    return SpeechModelConfig(
        features=LogMelConfig(num_mels=mels),
        specaugment=SpecAugmentConfig(),
        encoder=FastConformerConfig(**(sizes | encoder)),
        heads={"transducer": transducer, "ctc": CTCConfig(weight=0.3)},
    )


_TINY: dict[str, Any] = {
    "n_heads": 4,
    "subsampling_channels": 32,
    "hidden": 160,
    "head_dropout": 0.1,
    "dropout": 0.0,
    "xscaling": False,
}


def tiny() -> SpeechModelConfig:
    """About 4 M parameters: learns the built-in corpus on a laptop CPU in minutes."""
    return fastconformer_tdt_ctc(d_model=192, n_layers=4, **_TINY)


def low_resource() -> SpeechModelConfig:
    """Under 2 M parameters, for a few hours of real speech or less: learns on a laptop CPU in minutes.

    A coarse spectrum and a small model leave little to learn by heart; noise, dropout and masks stand in
    for the voices and rooms not heard. The features are levels below the peak of the 0.4 s on either side:
    unlike statistics of an utterance, they do not depend on the silence around a single word.
    egs/digits/RESULTS.md has what was compared.
    """
    cfg = fastconformer_tdt_ctc(d_model=96, n_layers=3, mels=40, **_TINY)
    features = cast(LogMelConfig, cfg.features)
    features.normalize, features.peak_frames = "peak", 40
    cast(FastConformerConfig, cfg.encoder).dropout = 0.1
    cfg.specaugment = SpecAugmentConfig(freq_masks=2, freq_width=8, time_masks=2)
    cfg.noise.probability = 0.5
    return cfg


def small() -> SpeechModelConfig:
    """About 14 M parameters, NeMo's FastConformer "small": 16 layers × 176."""
    return fastconformer_tdt_ctc(d_model=176, n_layers=16, n_heads=4, hidden=320)


def large() -> SpeechModelConfig:
    """About 115 M parameters, NeMo's FastConformer "large": 17 layers × 512."""
    return fastconformer_tdt_ctc(d_model=512, n_layers=17, n_heads=8, hidden=640)


def xlarge() -> SpeechModelConfig:
    """About 615 M parameters: 24 layers × 1024, the shape of Parakeet TDT 0.6B (v2): 128 mel bins, no biases
    in the layers, frames not scaled."""
    options: dict[str, Any] = {"use_bias": False, "xscaling": False, "mels": 128}
    return fastconformer_tdt_ctc(
        d_model=1024, n_layers=24, n_heads=8, hidden=640, predictor_layers=2, **options
    )


def xxlarge() -> SpeechModelConfig:
    """About 1.1 B parameters: 42 layers × 1024, the shape of Parakeet TDT 1.1B."""
    return fastconformer_tdt_ctc(d_model=1024, n_layers=42, n_heads=8, hidden=640, predictor_layers=2)


def zipformer(encoder: ZipformerConfig, *, mels: int = 80, hidden: int = 512) -> SpeechModelConfig:
    """A Zipformer with a stateless pruned transducer, as icefall's zipformer recipe; `hidden` is the width of
    predictor and joint. Features, masks and initial scales are that recipe's too."""
    encoder.feat_in = mels
    transducer = TransducerConfig(
        loss="pruned",
        predictor=StatelessConfig(hidden=hidden),
        joint=JointConfig(hidden=hidden, activation="tanh", dropout=0.0, init_scale=0.25),
    )
    return SpeechModelConfig(
        features=FbankConfig(num_mels=mels), specaugment=lhotse(), encoder=encoder,
        heads={"transducer": transducer},
    )  # fmt: skip


def zipformer_small() -> SpeechModelConfig:
    """23 M parameters: icefall's Zipformer-S."""
    return zipformer(zipformer_config.small())


def zipformer_medium() -> SpeechModelConfig:
    """66 M parameters: icefall's Zipformer-M, its default."""
    return zipformer(zipformer_config.medium())


def zipformer_large() -> SpeechModelConfig:
    """148 M parameters: icefall's Zipformer-L."""
    return zipformer(zipformer_config.large())


def zipformer_low_resource() -> SpeechModelConfig:
    """About 1 M parameters: a Zipformer of the size of `low_resource`, with its features, masks and noise.

    Its first stack works at 25 Hz and its front end has few channels: they would take most of the time at
    this size. Normalised features: with filter banks as they are a Zipformer waits at the frequencies of the
    words for much of a short training (egs/digits/RESULTS.md).
    """
    cfg = zipformer(
        ZipformerConfig(
            front_channels=(8, 16, 16),
            downsampling=(2, 4, 8, 4),
            output_downsampling=4,
            layers=(1, 2, 1, 1),
            dims=(64, 80, 96, 80),
            unmasked_dims=(48, 64, 64, 64),
            ff_dims=(160, 176, 208, 192),
            heads=(4, 4, 4, 4),
            conv_kernels=(15, 15, 9, 15),
            query_head_dim=16,
            value_head_dim=8,
            dropout=0.05,
        ),
        mels=40,
        hidden=160,
    )
    cfg.features = LogMelConfig(num_mels=40)
    cfg.specaugment = SpecAugmentConfig(freq_masks=2, freq_width=8, time_masks=2)
    cfg.noise.probability = 0.5
    cfg.head("transducer", TransducerConfig).joint.dropout = 0.1
    return cfg


def with_cr_ctc(
    model: SpeechModelConfig, *, weight: float = 0.1, consistency: float = 0.02
) -> SpeechModelConfig:
    """`model` with CR-CTC beside its other heads, or alone with weight=1 and consistency=0.2: a CTC head, two
    masked copies of each utterance, and 2.5 times as much of the time masked. As in icefall's recipes.

    weight: of CTC in the total loss. consistency: of the copies' disagreement in the total loss.
    """
    cfg = model.heads.setdefault("ctc", CTCConfig(dropout=0.1))
    cfg.weight = weight
    model.head("ctc", CTCConfig).consistency_weight = consistency / weight
    model.specaugment = lhotse(time_mask_ratio=2.5)
    return model


def tokenizer_32k() -> TokenizerConfig:
    """32 768 BPE pieces for many languages and a text of any length.

    A character that one language has 20 times gets its piece; what is rarer (slips, other scripts) is spelt
    in bytes, so that nothing is unknown and slips cost no pieces.
    """
    return TokenizerConfig(vocab_size=32_768, model_type="bpe", min_char_count=20, byte_fallback=True)
