"""The hybrid recogniser: log-mel → FastConformer → transducer (TDT or RNN-T) and CTC over one encoder.

Sub-modules carry NeMo's names (`preprocessor.featurizer`, `encoder`, `decoder`, `joint`, `ctc_decoder`), so
a state dict of NeMo's EncDecHybridRNNTCTCBPEModel loads key by key; `language_embedding` is ours.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.batch import Batch
from maya.encoders.fastconformer import FastConformer, FastConformerConfig
from maya.errors import MayaError
from maya.features.logmel import LogMel, LogMelConfig
from maya.features.noise import AddNoise, NoiseConfig
from maya.features.specaugment import SpecAugment, SpecAugmentConfig
from maya.losses import ctc_loss, fused_rnnt_loss, fused_tdt_loss
from maya.transducer.joint import Joint, JointConfig
from maya.transducer.predictor import Predictor, PredictorConfig


@config
class HybridConfig:
    """What a hybrid model is. `vocab_size` (pieces without blank) is filled in from the tokenizer."""

    features: LogMelConfig = field(default_factory=LogMelConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    encoder: FastConformerConfig = field(default_factory=FastConformerConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    vocab_size: int = 0
    languages: tuple[str, ...] = ()
    transducer: Literal["tdt", "rnnt", "none"] = "tdt"
    durations: tuple[int, ...] = (0, 1, 2, 3, 4)
    sigma: float = 0.02  # TDT logit under-normalisation; NeMo's recipes use 0.02, the paper 0.05
    omega: float = 0.1  # probability of the plain RNN-T loss on a step, training only
    loss_eps: float = 1e-4  # cells with less posterior mass are left out of the gradient; 0: none
    ctc_weight: float = 0.3  # 0 trains without CTC, 1 with CTC alone
    language_embedding: bool = False
    language_init: float = 0.02  # standard deviation of the embedding at the start
    language_dropout: float = 0.1  # probability that training hides the language, so it may be unknown later


@dataclass(kw_only=True, slots=True)
class Losses:
    """Losses of one batch, each (B,) fp32 and never reduced. A head that is absent has None.

    An utterance its audio cannot carry has an infinite loss and no gradient; see `maya.losses`.
    """

    total: Tensor
    transducer: Tensor | None = None
    ctc: Tensor | None = None


class CTCHead(nn.Module):
    """A 1×1 convolution from encoder frames to CTC logits, blank last: NeMo's ConvASRDecoder."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, vocab_size + 1, kernel_size=1)
        nn.init.xavier_uniform_(conv.weight)
        self.decoder_layers = nn.Sequential(conv)

    def forward(self, enc: Tensor) -> Tensor:
        """enc (B, S, D) → log-probabilities (B, S, V), fp32 even under autocast."""
        conv = self.decoder_layers[0]
        assert isinstance(conv, nn.Conv1d)
        logits = nn.functional.linear(enc, conv.weight.squeeze(-1), conv.bias)
        return logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)


class HybridModel(nn.Module):
    """FastConformer with a TDT or RNN-T transducer and a CTC head. Takes one `HybridConfig`."""

    def __init__(self, cfg: HybridConfig) -> None:
        super().__init__()
        check(cfg)
        self.cfg = cfg
        dim = cfg.encoder.d_model
        self.preprocessor = nn.ModuleDict({"featurizer": LogMel(cfg.features)})
        self.noise = AddNoise(cfg.noise)
        self.specaugment = SpecAugment(cfg.specaugment)
        self.encoder = FastConformer(cfg.encoder)
        if cfg.transducer != "none":
            self.decoder = Predictor(cfg.predictor, cfg.vocab_size)
            durations = len(cfg.durations) if cfg.transducer == "tdt" else 0
            self.joint = Joint(cfg.joint, dim, cfg.predictor.hidden, cfg.vocab_size, durations)
        if cfg.ctc_weight > 0:
            self.ctc_decoder = CTCHead(dim, cfg.vocab_size)
        if cfg.language_embedding:
            self.language_embedding = nn.Embedding(len(cfg.languages), dim)
            nn.init.normal_(self.language_embedding.weight, std=cfg.language_init)

    @property
    def blank(self) -> int:
        """The blank id, last in the vocabulary and outside the tokenizer."""
        return self.cfg.vocab_size

    @property
    def frame_seconds(self) -> float:
        """Seconds between two encoder frames."""
        return self.cfg.features.hop_ms / 1000 * self.cfg.encoder.subsampling_factor

    def features(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """audio (B, N) float in [-1, 1], audio_lens (B,) samples → log-mel (B, T, F), feat_lens (B,)."""
        return self.preprocessor["featurizer"](audio, audio_lens)

    def encode(self, audio: Tensor, audio_lens: Tensor, langs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """audio (B, N), audio_lens (B,), langs (B,) indices or -1 for unknown → (B, S, D), enc_lens (B,)."""
        feats, feat_lens = self.features(self.noise(audio, audio_lens), audio_lens)
        enc, enc_lens = self.encoder(self.specaugment(feats, feat_lens), feat_lens)
        if self.cfg.language_embedding:
            enc = enc + self._language_bias(langs, enc)
        return enc, enc_lens

    def _language_bias(self, langs: Tensor | None, enc: Tensor) -> Tensor:
        if langs is None:
            langs = torch.full((len(enc),), -1, device=enc.device)
        if self.training and self.cfg.language_dropout > 0:
            hide = torch.rand(len(enc), device=enc.device) < self.cfg.language_dropout
            langs = langs.masked_fill(hide, -1)
        known = (langs >= 0).to(enc.dtype)[:, None]
        return (self.language_embedding(langs.clamp(min=0)) * known)[:, None, :]  # (B, 1, D)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None, ctc_only: bool = False
    ) -> Losses:
        """The losses of a batch. `generator` draws TDT's omega: seed it alike on every rank. `ctc_only`
        leaves the transducer out, at a fraction of the cost."""
        enc, enc_lens = self.encode(batch.audio, batch.audio_lens, batch.langs)
        if ctc_only and hasattr(self, "joint"):
            # DDP waits for a gradient from every parameter; those of the transducer are zero for now.
            idle = [p.view(-1)[0] for m in (self.decoder, self.joint) for p in m.parameters()]
            enc = enc + 0.0 * torch.stack(idle).sum().to(enc.dtype)
        return self.losses(enc, enc_lens, batch, generator, ctc_only)

    def losses(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        batch: Batch,
        generator: torch.Generator | None = None,
        ctc_only: bool = False,
    ) -> Losses:
        """The losses of a batch that is encoded already: enc (B, S, D), enc_lens (B,)."""
        cfg = self.cfg
        transducer = ctc = None
        if cfg.transducer != "none" and cfg.ctc_weight < 1 and not ctc_only:
            transducer = self._transducer_loss(enc, enc_lens, batch, generator)
        if cfg.ctc_weight > 0:
            ctc = ctc_loss(self.ctc_decoder(enc), batch.tokens, enc_lens, batch.token_lens, blank=self.blank)
        if transducer is None:
            assert ctc is not None  # `check` has seen to it
            return Losses(total=ctc, ctc=ctc)
        if ctc is None:
            return Losses(total=transducer, transducer=transducer)
        total = (1 - cfg.ctc_weight) * transducer + cfg.ctc_weight * ctc
        return Losses(total=total, transducer=transducer, ctc=ctc)

    def _transducer_loss(
        self, enc: Tensor, enc_lens: Tensor, batch: Batch, generator: torch.Generator | None
    ) -> Tensor:
        """Joint and loss in one operator, so that the logits of a batch are never held."""
        cfg, joint = self.cfg, self.joint
        f, g = joint.project_encoder(enc), joint.project_predictor(self.decoder(batch.tokens))
        weight, bias, duration_weight, duration_bias = joint.output_layer()
        targets = (batch.tokens, enc_lens, batch.token_lens)
        settings: dict[str, Any] = {
            "blank": self.blank,
            "activation": cfg.joint.activation,
            "eps": cfg.loss_eps,
        }
        if self.training and cfg.joint.dropout > 0:
            # Of the CPU's generator, whose state checkpoints hold: each step and rank has its own mask.
            settings |= {"dropout": cfg.joint.dropout, "seed": int(torch.randint(2**31, ()))}
        if cfg.transducer == "rnnt":
            return fused_rnnt_loss(f, g, weight, bias, *targets, **settings)
        return fused_tdt_loss(
            f, g, weight, bias, duration_weight, duration_bias, *targets,
            durations=cfg.durations, sigma=cfg.sigma,
            omega=cfg.omega if self.training else 0.0, generator=generator, **settings,
        )  # fmt: skip


def check(cfg: HybridConfig) -> None:
    """Refuse a configuration that cannot be built, with the reason (MayaError)."""
    if cfg.vocab_size <= 0:
        raise MayaError("the model has no vocabulary yet: set model.vocab_size, or train a tokenizer first")
    if cfg.transducer == "none" and cfg.ctc_weight == 0:
        raise MayaError("the model has no head: give it a transducer or a ctc_weight above 0")
    if not 0 <= cfg.ctc_weight <= 1:
        raise MayaError(f"model.ctc_weight is a share between 0 and 1, not {cfg.ctc_weight}")
    if cfg.language_embedding and not cfg.languages:
        raise MayaError("a language embedding needs model.languages")
    if list(cfg.durations) != sorted(set(cfg.durations)) or min(cfg.durations) < 0 or max(cfg.durations) < 1:
        raise MayaError(f"model.durations must ascend from 0 or more, not {cfg.durations}")
    if cfg.features.num_mels != cfg.encoder.feat_in:
        raise MayaError(
            f"{cfg.features.num_mels} mel bins do not fit an encoder that takes {cfg.encoder.feat_in}"
        )


def build_model(cfg: HybridConfig) -> HybridModel:
    """A freshly initialised model on the current default device."""
    return HybridModel(cfg)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def with_vocabulary(cfg: HybridConfig, vocab_size: int, languages: tuple[str, ...]) -> HybridConfig:
    """A copy of the configuration for a tokenizer's vocabulary and a corpus's languages."""
    return dataclasses.replace(cfg, vocab_size=vocab_size, languages=languages)
