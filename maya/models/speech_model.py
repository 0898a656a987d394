"""The model: features → noise and masks → an encoder → heads by name."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from maya.data.loading.batch import Batch, HostCopy
from maya.encoders import Encoded, Encoder
from maya.encoders.zipformer.regularizers import set_batch_count
from maya.errors import MayaError
from maya.features import Features
from maya.features.noise import AddNoise
from maya.features.span_mask import MaskedFeatures, hide, span_mask
from maya.features.specaugment import SpecAugment
from maya.heads import Head, LossStep, final_weights, head_weights
from maya.heads.base import add_weighted, zero_gradients
from maya.kernels import host, onednn
from maya.models.adapters import add_adapters, is_adapter, merge_lora
from maya.models.config import ENCODER, SpeechModelConfig, check, head_context
from maya.models.speaker_memory import encode_rows

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Losses:
    """The losses of one batch, each (B,) fp32 and not reduced.

    total: weighted. parts: by head, and by "head_part" where a head has several losses (transducer_simple,
    ctc_consistency). An utterance that is too short for its text has an infinite loss and no gradient.
    objective: see `LossStep`.
    """

    total: Tensor
    parts: dict[str, Tensor]
    objective: str = ""


class SpeechModel(nn.Module):
    """Features, encoder and heads. Takes one `SpeechModelConfig`.

    State dict: `preprocessor.featurizer`, `encoder` and, below these, NeMo's names; `heads.NAME`;
    `language_embedding`.
    """

    def __init__(self, cfg: SpeechModelConfig) -> None:
        check(cfg)
        super().__init__()
        self.cfg = cfg
        self.preprocessor = nn.ModuleDict({"featurizer": cfg.features.build()})
        self.noise = AddNoise(cfg.noise)
        self.specaugment = SpecAugment(cfg.specaugment)
        self.span_mask = cfg.span_mask
        self.encoder: Encoder = cfg.encoder.build()
        context = head_context(cfg)
        self.heads = nn.ModuleDict({name: head.build(context) for name, head in cfg.heads.items()})
        self._check_frames()
        if cfg.language_embedding:
            self.language_embedding = nn.Embedding(len(cfg.languages), cfg.encoder.d_model)
            nn.init.normal_(self.language_embedding.weight, std=cfg.language_init)
        add_adapters(self.encoder, self.heads, cfg.adapters)
        self.frozen: frozenset[str] = frozenset()
        self._held: list[nn.Module] = []  # of which no parameter learns, by `learn_only`
        self.initial_heads: tuple[str, ...] = ()  # trained already when training begins or is resumed
        self.untrained: tuple[str, ...] = ()  # heads of a loaded model that were never trained
        self._learns = [name for name, p in self.named_parameters() if p.requires_grad]
        self.step = 0  # of training
        self._clock_agrees: bool | None = None  # with the encoder's lengths; None: not compared yet

    def _check_frames(self) -> None:
        """MayaError for CTC over an encoder that makes the frames of a whole window of any utterance: it
        would learn to write in the silence behind it."""
        ctc = [name for name, head in self.named_heads().items() if head.ctc_over]
        if ctc and self.cfg.encoder.subsampled(0) > 0:
            raise MayaError(
                f"the encoder makes {self.cfg.encoder.subsampled(0)} frames of any utterance, and the head "
                f"{ctc[0]!r} needs as many as the utterance has: set model.encoder.whole=false"
            )

    def head(self, name: str) -> Head:
        """A head by its name. Raises MayaError if the model has none of that name."""
        if name not in self.heads:
            raise MayaError(
                f"this model has no head {name!r}; its heads are {', '.join(self.heads) or 'none'}"
            )
        return cast(Head, self.heads[name])

    def named_heads(self) -> dict[str, Head]:
        """All heads by name."""
        return {name: cast(Head, head) for name, head in self.heads.items()}

    @property
    def featurizer(self) -> Features:
        """The module that computes features."""
        return cast(Features, self.preprocessor["featurizer"])

    @property
    def blank(self) -> int:
        """The blank's id."""
        return self.cfg.blank

    @property
    def parts(self) -> tuple[str, ...]:
        """The names in `Losses.parts` when all heads are trained."""
        return tuple(part_name(n, p) for n, head in self.named_heads().items() for p in head.parts)

    @property
    def hidden(self) -> list[int]:
        """Layers of the encoder whose hidden states the heads read."""
        return sorted({layer for head in self.named_heads().values() for layer in head.hidden})

    @property
    def frame_seconds(self) -> float:
        """Seconds between two encoder frames."""
        return self.cfg.clock.seconds

    def check_rate(self, batch: Batch) -> None:
        """MayaError for a batch whose audio is not at the sample rate of the model's features."""
        if batch.sample_rate != self.cfg.features.sample_rate:
            raise MayaError(
                f"the batch holds audio at {batch.sample_rate} Hz, and the model takes "
                f"{self.cfg.features.sample_rate} Hz: make the loader with sample_rate=features.sample_rate"
            )

    def features(
        self, audio: Tensor, audio_lens: Tensor, warps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """audio (B, N) float in [-1, 1] at the model's sample rate, audio_lens (B,) samples, warps (B, 3) or
        None, see maya.features.warp → (B, T, F), feat_lens (B,). Raises MayaError where the features cannot
        be warped."""
        if warps is None:
            return self.featurizer(audio, audio_lens)
        if not self.featurizer.warpable:
            kind = self.cfg.features.kind
            raise MayaError(f"features of kind {kind!r} cannot be warped; set data.augment.warp_prob=0")
        return self.featurizer(audio, audio_lens, warps=warps)

    def begin_step(self, step: int, batch_count: float) -> None:
        """Move all that changes while training on to optimizer step `step`, from 0; `batch_count` is what
        scheduled regularisers count by, see `maya.encoders.zipformer.regularizers.Controls`."""
        self.step = step
        set_batch_count(self, batch_count)

    def part(self, name: str) -> nn.Module:
        """The encoder or a head by name. Raises MayaError for an unknown name."""
        return self.encoder if name == ENCODER else self.head(name)

    def freeze(self, parts: Collection[str]) -> None:
        """Keep these parts ("encoder", names of heads) as they are, and let all others learn.

        A frozen part runs as in evaluation: no dropout or layer drop, batch-norm statistics held and used. A
        frozen encoder does no gradient work and keeps nothing for a backward pass; noise and SpecAugment,
        which come before it, stay on.
        """
        prefixes = {name: f"{name}." if name == ENCODER else f"heads.{name}." for name in parts}
        for name in parts:
            self.part(name)  # it exists
        self.frozen = frozenset(parts)
        for name in self._learns:
            self.get_parameter(name).requires_grad_(not name.startswith(tuple(prefixes.values())))
        self.train(self.training)

    def learn_only(self, names: Collection[str]) -> None:
        """Let these parameters learn, of those that `freeze` does not keep, and no others.

        Layers of the encoder without any of them run as in evaluation. So do normalisations that do not learn
        themselves: their running statistics stay.
        """
        self._learns = [name for name in self._learns if name in names]
        learning = set(self._learns)
        for name, p in self.named_parameters():
            p.requires_grad_(name in learning)
        encoder = [*self.encoder.blocks(), *(self.encoder.get_submodule(name) for name in self.encoder.front)]
        norms = [m for m in self.encoder.modules() if getattr(m, "running_mean", None) is not None]
        self._held = [m for m in encoder if not any(p.requires_grad for p in m.parameters())]
        self._held += [m for m in norms if not any(p.requires_grad for p in m.parameters(recurse=False))]
        self.freeze(self.frozen)

    def merge_adapters(self) -> Self:
        """Make LoRA's products part of the weights; the model is then one without LoRA, and gives the same.
        Bottleneck adapters stay."""
        if merge_lora(self):
            self.cfg = replace(self.cfg, adapters=type(self.cfg.adapters)())
            self._learns = [name for name, p in self.named_parameters() if not is_adapter(name)]
        return self

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but frozen parts, and what `learn_only` holds, stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        for module in self._held:
            module.eval()
        return self

    def encode_audio(
        self,
        audio: Tensor,
        audio_lens: Tensor,
        views: int = 1,
        hidden: Sequence[int] = (),
        warps: Tensor | None = None,
        row_of: Tensor | None = None,
    ) -> Encoded:
        """audio (B, N), audio_lens (B,) → encoder frames before any language is added.

        With `views` 2 each row is there twice, B rows apart, masked in two ways. warps: see `features`.
        row_of: see `Batch` and `encode_rows`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and ENCODER not in self.frozen):
            feats, feat_lens = self.features(self.noise(audio, audio_lens), audio_lens, warps)
            feats = self.specaugment.warp(feats, feat_lens)  # alike in all views, which stay frame by frame
            if views > 1:
                feats, feat_lens = feats.repeat(views, 1, 1), feat_lens.repeat(views)
            options = {"hidden": hidden} if hidden else {}
            with nullcontext() if self.encoder.quick_layers else onednn.linear_layers(feats):
                whole, feats = feats, self.specaugment(feats, feat_lens)
                feats, masked = self._with_spans_hidden(whole, feats, feat_lens)
                if row_of is not None:
                    encoded = encode_rows(self.encoder, feats, feat_lens, row_of, views, hidden)
                else:
                    encoded = self.encoder(feats, feat_lens, **options)
                return encoded if masked is None else replace(encoded, masked=masked)

    def _with_spans_hidden(
        self, whole: Tensor, feats: Tensor, lens: Tensor
    ) -> tuple[Tensor, MaskedFeatures | None]:
        """feats (B, T, F), in training with spans hidden, and `whole`, for a head that predicts them."""
        cfg = self.span_mask
        if cfg is None:
            return feats, None
        if not self.training:
            return feats, MaskedFeatures(whole, lens)
        features = self.cfg.features
        frames = max(1, round(cfg.seconds * features.sample_rate / features.hop_samples))
        hidden = span_mask(lens, feats.shape[1], cfg.probability, frames)
        return hide(feats, lens, hidden, cfg.noise), MaskedFeatures(whole, lens, hidden)

    def with_language(self, encoded: Encoded, langs: Tensor | None) -> Encoded:
        """The frames with the embedding of langs (B,) added: indices, or -1 for unknown."""
        if not self.cfg.language_embedding:
            return encoded
        frames = encoded.frames
        if langs is None:
            langs = torch.full((len(frames),), -1, device=frames.device)
        is_known = (langs >= 0).to(frames.dtype)[:, None]
        shift = (self.language_embedding(langs.clamp(min=0)) * is_known)[:, None, :]
        return replace(encoded, frames=frames + shift)

    def encode(self, audio: Tensor, audio_lens: Tensor, langs: Tensor | None = None) -> Encoded:
        """audio (B, N), audio_lens (B,), langs (B,) indices or -1 for unknown → the frames that text heads
        read. Unpacks as `frames (B, S, D), lens (B,)`."""
        return self.with_language(self.encode_audio(audio, audio_lens), langs)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """The losses of a batch at `self.step`. `generator` draws TDT's omega: seed it alike on every rank.
        A head without weight at this step is not computed."""
        self.check_rate(batch)
        weights = head_weights(self.cfg.heads, self.step)
        views = self.cfg.views if self.training else 1
        encoded = self.encode_audio(
            batch.audio, batch.audio_lens, views, self.hidden, batch.warps, batch.row_of
        )
        encoded = self._with_host_lens(encoded, batch.on_host("audio_lens").repeat(views))
        step = LossStep(step=self.step, generator=generator, views=views)
        return self.losses(encoded, batch, weights=weights, step=step)

    def losses(
        self, encoded: Encoded, batch: Batch, *, weights: Mapping[str, float] | None = None,
        step: LossStep | None = None,
    ) -> Losses:  # fmt: skip
        """The losses of a batch that `encode_audio` has encoded. weights: of each head, by default those at
        the end of training. With `step.views` 2 each loss is the mean of the two views."""
        step = step or LossStep(step=self.step)
        weights = final_weights(self.cfg.heads, tuple(self.heads)) if weights is None else weights
        targets = _repeated(batch, step.views)
        langs = self._partly_hidden(batch.langs).repeat(step.views)
        conditioned = self.with_language(encoded, langs)
        total = encoded.frames.new_zeros(batch.size, dtype=_wide(encoded.frames.dtype))
        parts: dict[str, Tensor] = {}
        for name, head in self.named_heads().items():
            if not weights[name]:
                total = total + zero_gradients(head) if self.training else total
                continue
            losses = head.losses(conditioned if head.conditioned else encoded, targets, step)
            losses = {key: _mean_of_views(loss, batch.size) for key, loss in losses.items()}
            total = add_weighted(total, head.total(losses, step.step), weights[name])
            parts |= {part_name(name, key): loss for key, loss in losses.items()}
        is_read = any(weights[name] and head.conditioned for name, head in self.named_heads().items())
        if self.training and self.cfg.language_embedding and not is_read:
            total = total + zero_gradients(self.language_embedding)
        return Losses(total=total, parts=parts, objective=step.objective)

    def _with_host_lens(self, encoded: Encoded, audio_lens: Tensor) -> Encoded:
        """The frames with their lengths on the CPU, from audio_lens (B,) samples by the model's clock.

        The losses check lengths, and a read of those that the encoder computed would wait for the device. On
        a GPU only the first batch is compared with the encoder, on a CPU every one.
        """
        if self._clock_agrees is False or not host.reads_freely(audio_lens):
            return encoded
        lens = self.cfg.clock.frames(audio_lens)
        if self._clock_agrees is None or host.reads_freely(encoded.lens):
            self._clock_agrees = torch.equal(encoded.lens.cpu(), lens)
        if not self._clock_agrees:
            log.warning(
                "%s.subsampled does not give the lengths of the encoder's frames: plans and times are off, "
                "and each training step waits for the device; change it", type(self.cfg.encoder).__name__,
            )  # fmt: skip
            return encoded
        return replace(encoded, host_lens=HostCopy(encoded.lens, lens))

    def _partly_hidden(self, langs: Tensor) -> Tensor:
        """langs (B,), in training some of them unknown."""
        if not (self.training and self.cfg.language_embedding and self.cfg.language_dropout > 0):
            return langs
        hide = torch.rand(len(langs), device=langs.device) < self.cfg.language_dropout
        return langs.masked_fill(hide, -1)


def part_name(head: str, part: str) -> str:
    """The name of a head's loss in `Losses.parts` and in the log."""
    return head if part == "loss" else f"{head}_{part}"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _mean_of_views(loss: Tensor, rows: int) -> Tensor:
    """(views · B,) → (B,). A loss that compares the views has B rows already."""
    return loss if len(loss) == rows else loss.view(-1, rows).mean(0)


def _repeated(batch: Batch, views: int) -> Batch:
    """The batch with its targets, labels and ids repeated row after row; the audio as it is."""
    if views == 1:
        return batch
    repeated = replace(
        batch,
        tokens=batch.tokens.repeat(views, 1),
        token_lens=batch.token_lens.repeat(views),
        langs=batch.langs.repeat(views),
        ids=batch.ids * views,
        labels={name: values * views for name, values in batch.labels.items()},
        speeds=None if batch.speeds is None else batch.speeds * views,
    )
    targets = {name: batch.on_host(name) for name in ("tokens", "token_lens", "langs")}
    copies = {name: x.repeat(views, *[1] * (x.ndim - 1)) for name, x in targets.items()}
    return repeated.with_host_copies(copies)


def build_model(cfg: SpeechModelConfig) -> SpeechModel:
    """A model for a new training on the current default device: fresh, but for an encoder that brings its
    weights."""
    model = SpeechModel(cfg)
    model.encoder.read_start()
    return model


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
