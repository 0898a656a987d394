"""The hybrid recogniser: log-mel → FastConformer → transducer (TDT or RNN-T) and CTC over one encoder.

Sub-modules carry NeMo's names (`preprocessor.featurizer`, `encoder`, `decoder`, `joint`, `ctc_decoder`), so
a state dict of NeMo's EncDecHybridRNNTCTCBPEModel loads key by key; `language_embedding` and `language_head`
are ours.
"""

import dataclasses
from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.batch import Batch
from maya.encoders.fastconformer import FastConformerConfig
from maya.errors import MayaError
from maya.features.logmel import LogMelConfig
from maya.features.noise import NoiseConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.losses import ctc_loss, fused_rnnt_loss, fused_tdt_loss
from maya.models.speech_model import Losses, SpeechModel
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
    language_id_weight: float = 0.0  # of the loss that tells the language from the encoder; 0: no such head


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


class LanguageHead(nn.Module):
    """Which language is spoken: mean and standard deviation of the encoder's frames → a score per language.

    Statistics pooling as in x-vectors (Snyder et al. 2018, "Spoken Language Recognition using X-vectors").
    """

    def __init__(self, dim: int, languages: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * dim, languages)

    def forward(self, enc: Tensor, enc_lens: Tensor) -> Tensor:
        """enc (B, S, D) zero beyond enc_lens (B,) → log-probabilities (B, languages), fp32 at least."""
        wide = enc if enc.dtype == torch.float64 else enc.float()
        frames = enc_lens.clamp(min=1)[:, None]
        mean = wide.sum(1) / frames
        variance = (wide.square().sum(1) / frames - mean.square()).clamp(min=0)
        # The small constant keeps the root's slope finite where a channel does not vary.
        logits = self.out(torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1))
        return logits.to(wide.dtype).log_softmax(-1)


class HybridModel(SpeechModel):
    """FastConformer with a TDT or RNN-T transducer and a CTC head. Takes one `HybridConfig`."""

    def __init__(self, cfg: HybridConfig) -> None:
        check(cfg)
        super().__init__(cfg.features, cfg.noise, cfg.specaugment, cfg.encoder)
        self.cfg: HybridConfig = cfg
        dim = cfg.encoder.d_model
        if cfg.transducer != "none":
            self.decoder = Predictor(cfg.predictor, cfg.vocab_size)
            durations = len(cfg.durations) if cfg.transducer == "tdt" else 0
            self.joint = Joint(cfg.joint, dim, cfg.predictor.hidden, cfg.vocab_size, durations)
        if cfg.ctc_weight > 0:
            self.ctc_decoder = CTCHead(dim, cfg.vocab_size)
        if cfg.language_embedding:
            self.language_embedding = nn.Embedding(len(cfg.languages), dim)
            nn.init.normal_(self.language_embedding.weight, std=cfg.language_init)
        if cfg.language_id_weight > 0:
            self.language_head = LanguageHead(dim, len(cfg.languages))

    @property
    def blank(self) -> int:
        """The blank id, last in the vocabulary and outside the tokenizer."""
        return self.cfg.vocab_size

    @property
    def ctc_weight(self) -> float:
        """CTC's share of the loss when training is under way; 0 without a CTC head."""
        return self.cfg.ctc_weight

    @property
    def parts(self) -> tuple[str, ...]:
        """The fields of `Losses`, per token, that the total is made of and the log shows beside it."""
        return ("transducer", "ctc")

    @property
    def tells_language(self) -> bool:
        """Whether `Losses.language` is there."""
        return self.cfg.language_id_weight > 0

    def identify(self, heard: Tensor, enc_lens: Tensor) -> Tensor:
        """What `listen` returned → log-probabilities of `cfg.languages` (B, languages)."""
        self.check_identifies()
        return self.language_head(heard, enc_lens)

    def check_identifies(self) -> None:
        """MayaError unless the model has a head that tells languages apart."""
        if not self.cfg.language_id_weight:
            raise MayaError(
                "this model cannot tell languages apart: it was trained with model.language_id_weight 0; "
                "name the language, or none"
            )

    def with_language(self, heard: Tensor, langs: Tensor | None) -> Tensor:
        """What `listen` returned, (B, S, D), with the bias of langs (B,), indices or -1 for unknown."""
        if not self.cfg.language_embedding:
            return heard
        if langs is None:
            langs = torch.full((len(heard),), -1, device=heard.device)
        if self.training and self.cfg.language_dropout > 0:
            hide = torch.rand(len(heard), device=heard.device) < self.cfg.language_dropout
            langs = langs.masked_fill(hide, -1)
        known = (langs >= 0).to(heard.dtype)[:, None]
        return heard + (self.language_embedding(langs.clamp(min=0)) * known)[:, None, :]

    def encode(self, audio: Tensor, audio_lens: Tensor, langs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """audio (B, N), audio_lens (B,), langs (B,) indices or -1 for unknown → (B, S, D), enc_lens (B,)."""
        heard, enc_lens = self.listen(audio, audio_lens)
        return self.with_language(heard, langs), enc_lens

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None, ctc_weight: float | None = None
    ) -> Losses:
        """The losses of a batch. `generator` draws TDT's omega: seed it alike on every rank. `ctc_weight` is
        CTC's share in this step, by default the configured one; with 1 the transducer is left out, at a
        fraction of the cost."""
        heard, enc_lens = self.listen(batch.audio, batch.audio_lens)
        enc = self.with_language(heard, batch.langs)
        if self._share(ctc_weight) == 1 and hasattr(self, "joint"):
            # DDP waits for a gradient from every parameter; those of the transducer are zero for now.
            idle = [p.view(-1)[0] for m in (self.decoder, self.joint) for p in m.parameters()]
            enc = enc + 0.0 * torch.stack(idle).sum().to(enc.dtype)
        spoken = self.identify(heard, enc_lens) if self.cfg.language_id_weight else None
        return self.losses(enc, enc_lens, batch, generator, ctc_weight, spoken)

    def losses(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        batch: Batch,
        generator: torch.Generator | None = None,
        ctc_weight: float | None = None,
        spoken: Tensor | None = None,
    ) -> Losses:
        """The losses of a batch that is encoded already: enc (B, S, D), enc_lens (B,); `spoken` is what
        `identify` returned."""
        cfg, share = self.cfg, self._share(ctc_weight)
        out = Losses(total=enc.new_zeros(len(enc), dtype=torch.float32))
        if cfg.transducer != "none" and share < 1:
            out.transducer = self._transducer_loss(enc, enc_lens, batch, generator)
            out.total = (1 - share) * out.transducer
        if cfg.ctc_weight > 0:
            log_probs = self.ctc_decoder(enc)
            out.ctc = ctc_loss(log_probs, batch.tokens, enc_lens, batch.token_lens, blank=self.blank)
            if share > 0:
                out.total = out.total + share * out.ctc
            else:  # the ramp's first step: 0 · infinity would not be 0
                out.total = out.total + 0.0 * out.ctc.masked_fill(out.ctc.isinf(), 0.0)
        if spoken is not None:
            out.language = nn.functional.nll_loss(spoken, batch.langs, ignore_index=-1, reduction="none")
            out.total = out.total + cfg.language_id_weight * out.language
        return out

    def _share(self, ctc_weight: float | None) -> float:
        """CTC's share of the loss."""
        if self.cfg.transducer == "none":
            return 1.0
        return self.cfg.ctc_weight if ctc_weight is None else ctc_weight

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
    if cfg.language_id_weight and not cfg.languages:
        raise MayaError("model.language_id_weight needs model.languages to tell apart")
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
