"""The configuration of a model: any features, encoder and heads that fit together."""

import dataclasses
from dataclasses import field
from typing import Annotated, TypeVar

from torch import nn

from maya.config import config
from maya.encoders import EncoderConfig, FastConformerConfig, FrameClock
from maya.errors import MayaError
from maya.features import FeaturesConfig, LogMelConfig
from maya.features.noise import WhiteNoiseConfig
from maya.features.span_mask import SpanMaskConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import HeadConfig, HeadContext, SeparationConfig
from maya.models.adapters import AdapterConfig
from maya.ranges import Count, Distinct, NonNegFloat, Share
from maya.text.tokenizer import Tokenizer

ENCODER = "encoder"  # the part of a model that is not a head
H = TypeVar("H", bound=HeadConfig)


@config
class SpeechModelConfig:
    """Features, encoder and heads by name. `vocab_size` (pieces without blank) and `languages` are filled in
    from tokenizer and corpus. The order of the text heads is the order of preference in decoding."""

    features: FeaturesConfig = field(default_factory=LogMelConfig)
    noise: WhiteNoiseConfig = field(default_factory=WhiteNoiseConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    encoder: EncoderConfig = field(default_factory=FastConformerConfig)
    heads: dict[str, HeadConfig] = field(default_factory=dict)
    vocab_size: Count = 0
    # The tokenizer's piece 0 is the blank and no text, as in icefall's models. By default blank has an id of
    # its own, after the pieces.
    blank_first: bool = False
    languages: Annotated[tuple[str, ...], Distinct()] = ()
    language_embedding: bool = False  # added to the frames that text heads read
    language_init: NonNegFloat = 0.02  # standard deviation of the embedding at the start
    language_dropout: Share = 0.1  # probability that training hides the language, so it may be unknown later
    adapters: AdapterConfig = field(default_factory=AdapterConfig)  # beside the weights, for tuning

    def head(self, name: str, kind: type[H]) -> H:
        """A head's configuration, of class `kind`, to read or change its fields. MayaError without such a
        head."""
        head = self.heads.get(name)
        if not isinstance(head, kind):
            names = ", ".join(self.heads) or "none"
            raise MayaError(f"the model has no head {name!r} of class {kind.__name__}; its heads are {names}")
        return head

    @property
    def labels(self) -> int:
        """Token ids that stand for text: the vocabulary without blank."""
        return self.vocab_size - 1 if self.blank_first else self.vocab_size

    @property
    def blank(self) -> int:
        """The blank's id."""
        return 0 if self.blank_first else self.vocab_size

    @property
    def clock(self) -> FrameClock:
        """Samples, seconds and encoder frames."""
        return FrameClock(self.features, self.encoder)

    @property
    def text_heads(self) -> dict[str, HeadConfig]:
        """The heads that write text, in the order of preference."""
        return {name: head for name, head in self.heads.items() if head.writes_text}

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that a head brings; None where it is to be trained. Raises MayaError where two heads
        bring different ones."""
        brought = {name: made for name, head in self.heads.items() if (made := head.tokenizer()) is not None}
        if len({made.model_bytes for made in brought.values()}) > 1:
            raise MayaError(
                f"the heads {' and '.join(brought)} need different tokenizers; remove one of them"
            )
        return next(iter(brought.values()), None)

    @property
    def views(self) -> int:
        """How often a training step holds each utterance, masked differently each time."""
        return max((head.views for head in self.heads.values()), default=1)

    @property
    def span_mask(self) -> SpanMaskConfig | None:
        """The spans of features that training hides; None for none. Raises MayaError where two heads need
        different ones."""
        spans = [mask for head in self.heads.values() if head.weight and (mask := head.span_mask) is not None]
        if any(mask != spans[0] for mask in spans):
            raise MayaError("heads of masked prediction see the same features: give them the same `mask`")
        return spans[0] if spans else None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the labels that the heads' losses read."""
        return tuple(dict.fromkeys(label for head in self.heads.values() for label in head.needs))

    @property
    def sources(self) -> int:
        """Speakers that its training needs apart, in `Batch.sources`; 0 for a model that separates none."""
        return max((h.sources for h in self.heads.values() if isinstance(h, SeparationConfig)), default=0)

    def without_places(self) -> "SpeechModelConfig":
        """A copy without the heads that need something outside the checkpoint, such as a language model; see
        `HeadConfig.places`. It can be built on the meta device."""
        heads = {name: head for name, head in self.heads.items() if not head.places}
        return dataclasses.replace(self, heads=heads)


def with_places(cfg: SpeechModelConfig, present: SpeechModelConfig) -> SpeechModelConfig:
    """A saved configuration with the paths that `present`, the experiment's, gives its heads on this machine;
    see `HeadConfig.places`."""
    heads = dict(cfg.heads)
    for name, head in heads.items():
        now = present.heads.get(name)
        if type(now) is type(head) and head.places:
            heads[name] = dataclasses.replace(head, **{place: getattr(now, place) for place in head.places})
    return dataclasses.replace(cfg, heads=heads)


def check(cfg: SpeechModelConfig) -> None:
    """Refuse a configuration that cannot be built, with the reason (MayaError)."""
    if cfg.text_heads and cfg.labels <= 0:
        raise MayaError("the model has no vocabulary yet: set model.vocab_size, or train a tokenizer first")
    if cfg.language_embedding and not cfg.languages:
        raise MayaError("a language embedding needs model.languages")
    # A head is an attribute of a ModuleDict, which has some of its own: "type", "values" and so on.
    if bad := [n for n in cfg.heads if not n.isidentifier() or n == ENCODER or hasattr(nn.ModuleDict(), n)]:
        raise MayaError(f"a head cannot be named {bad[0]!r}; use another word, such as ctc or emotion")
    if cfg.features.num_mels == 1 and cfg.specaugment.freq_masks:
        raise MayaError("a waveform has no frequencies to mask: set model.specaugment.freq_masks=0")
    if cfg.adapters.type != "none" and getattr(cfg.encoder, "four_bit", False):
        raise MayaError(
            "LoRA and adapters have no place in weights of 4 bits: set model.encoder.four_bit=false"
        )
    if cfg.features.num_mels != cfg.encoder.feat_in:
        raise MayaError(
            f"{cfg.features.num_mels} mel bins do not fit an encoder that takes {cfg.encoder.feat_in}"
        )


def head_context(cfg: SpeechModelConfig) -> HeadContext:
    """The facts that the heads of a model are built from."""
    return HeadContext(
        dim=cfg.encoder.d_model, labels=cfg.labels, blank=cfg.blank, languages=cfg.languages,
        hidden_dims=cfg.encoder.hidden_dims, frame_seconds=cfg.clock.seconds,
        feature_dim=cfg.features.num_mels, subsampling=cfg.encoder.subsampling_factor,
    )  # fmt: skip


def with_vocabulary(cfg: SpeechModelConfig, vocab_size: int, languages: tuple[str, ...]) -> SpeechModelConfig:
    """A copy of the configuration for a tokenizer's vocabulary and a corpus's languages."""
    return dataclasses.replace(cfg, vocab_size=vocab_size, languages=languages)
