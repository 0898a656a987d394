"""What every model that training takes has in common: features → noise and masks → an encoder that can be
kept frozen → one loss an utterance."""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from maya.data.loading.batch import Batch
from maya.encoders import AnyEncoderConfig, build_encoder
from maya.encoders.zipformer.regularizers import set_batch_count
from maya.errors import MayaError
from maya.features import FeaturesConfig, build_features, frame_samples
from maya.features.noise import AddNoise, NoiseConfig
from maya.features.specaugment import SpecAugment, SpecAugmentConfig


@dataclass(kw_only=True, slots=True)
class Losses:
    """Losses of one batch, each (B,) fp32 and never reduced. A head that is absent has None.

    An utterance its audio cannot carry has an infinite loss and no gradient; see `maya.losses`. `simple` is
    the loss that finds the windows of a pruned transducer, `consistency` that of CR-CTC. `language` is 0
    where the batch does not say the language.
    """

    total: Tensor
    transducer: Tensor | None = None
    simple: Tensor | None = None
    ctc: Tensor | None = None
    consistency: Tensor | None = None
    attention: Tensor | None = None
    language: Tensor | None = None

    def mean_of_views(self) -> "Losses":
        """Of rows that are two views of each utterance, the second ones after all first ones: the means of
        both; `consistency` has a row an utterance already."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "consistency"}
        folded: dict[str, Any] = {k: None if x is None else x.view(2, -1).mean(0) for k, x in found.items()}
        return Losses(consistency=self.consistency, **folded)


class SpeechModel(nn.Module):
    """Features and encoder under NeMo's names; what is done with the encoder's output is for subclasses.

    The loop asks of a model: `cfg`; `forward`, to `Losses`; `freeze_encoder`; a `state_dict` of what a
    checkpoint keeps, which `load_state_dict` takes.
    """

    cfg: Any

    def __init__(
        self,
        features: FeaturesConfig,
        noise: NoiseConfig,
        specaugment: SpecAugmentConfig,
        encoder: AnyEncoderConfig,
    ) -> None:
        super().__init__()
        self.preprocessor = nn.ModuleDict({"featurizer": build_features(features)})
        self.noise = AddNoise(noise)
        self.specaugment = SpecAugment(specaugment)
        self.encoder = build_encoder(encoder)
        self.encoder_frozen = False
        self.initial_heads: tuple[str, ...] = ()  # trained already when training begins or is resumed
        self._encoder_learns = [name for name, p in self.encoder.named_parameters() if p.requires_grad]
        self.step = 0  # of training

    @property
    def ctc_weight(self) -> float:
        """CTC's share of the loss when training is under way; 0 without a CTC head."""
        return 0.0

    @property
    def parts(self) -> tuple[str, ...]:
        """The fields of `Losses`, per token, that the total is made of and the log shows beside it."""
        return ()

    @property
    def tells_language(self) -> bool:
        """Whether `Losses.language` is there."""
        return False

    @property
    def frame_seconds(self) -> float:
        """Seconds between two encoder frames."""
        features = self.cfg.features
        hop = frame_samples(features.hop_ms, features.sample_rate) / features.sample_rate
        return hop * self.cfg.encoder.subsampling_factor

    def check_rate(self, batch: Batch) -> None:
        """MayaError for a batch whose audio is not at the sample rate of the model's features."""
        if batch.sample_rate != self.cfg.features.sample_rate:
            raise MayaError(
                f"the batch holds audio at {batch.sample_rate} Hz, and the model takes "
                f"{self.cfg.features.sample_rate} Hz: make the loader with sample_rate=features.sample_rate"
            )

    def features(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """audio (B, N) float in [-1, 1] at the model's sample rate, audio_lens (B,) samples → log-mel
        (B, T, F), feat_lens (B,)."""
        return self.preprocessor["featurizer"](audio, audio_lens)

    def begin_step(self, step: int, batch_count: float) -> None:
        """Move all that changes while training on to optimizer step `step`, from 0; `batch_count` is what
        scheduled regularisers count by, see `maya.encoders.zipformer.regularizers.Controls`."""
        self.step = step
        set_batch_count(self, batch_count)

    def freeze_encoder(self, frozen: bool) -> None:
        """Keep the encoder as it is while the heads train, or let it learn again.

        A frozen encoder does no gradient work, keeps nothing for a backward pass and runs as in evaluation:
        no dropout or layer drop, batch-norm statistics held and used. The heads thus learn on what it
        puts out when it decodes; noise and SpecAugment, which come before it, stay on.
        """
        self.encoder_frozen = frozen
        for name in self._encoder_learns:
            self.encoder.get_parameter(name).requires_grad_(not frozen)
        self.encoder.train(self.training and not frozen)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def listen(self, audio: Tensor, audio_lens: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
        """audio (B, N), audio_lens (B,) → encoder output before any language is added (B, S, D), (B,).

        With `views` 2 each row is there twice, B rows apart, masked in two ways.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            feats, feat_lens = self.features(self.noise(audio, audio_lens), audio_lens)
            feats = self.specaugment.warp(feats, feat_lens)  # alike in all views, which stay frame by frame
            if views > 1:
                feats, feat_lens = feats.repeat(views, 1, 1), feat_lens.repeat(views)
            return self.encoder(self.specaugment(feats, feat_lens), feat_lens)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None, ctc_weight: float | None = None
    ) -> Losses:
        """The losses of a batch; `generator` draws what must be alike on every rank, `ctc_weight` is CTC's
        share in this step. A model without such a part takes no notice of them."""
        raise NotImplementedError
