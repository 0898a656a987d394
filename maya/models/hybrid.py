"""The hybrid recogniser: features → encoder → a transducer (TDT, RNN-T or pruned RNN-T), CTC and an attention
decoder, those that the configuration asks for, over one encoder.

Sub-modules carry NeMo's names (`preprocessor.featurizer`, `encoder`, `decoder`, `joint`, `ctc_decoder`), so
a state dict of NeMo's EncDecHybridRNNTCTCBPEModel loads key by key; `simple_joint`, `attention_decoder`,
`language_embedding` and `language_head` are ours.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maya.data.loading.batch import Batch
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoder
from maya.heads.ctc import CTCHead, LanguageHead
from maya.heads.transducer import Joint, SimpleJoint, build_predictor
from maya.losses import (
    cr_ctc_loss,
    ctc_loss,
    fused_pruned_rnnt_loss,
    fused_rnnt_loss,
    fused_tdt_loss,
    prune_ranges,
    simple_rnnt_loss,
)
from maya.models.hybrid_config import HybridConfig, PrunedConfig, check, with_vocabulary
from maya.models.speech_model import Losses, SpeechModel

__all__ = [
    "HybridConfig",
    "HybridModel",
    "PrunedConfig",
    "build_model",
    "count_parameters",
    "with_vocabulary",
]


class HybridModel(SpeechModel):
    """An encoder with a transducer, a CTC head and an attention decoder. Takes one `HybridConfig`."""

    def __init__(self, cfg: HybridConfig) -> None:
        check(cfg)
        super().__init__(cfg.features, cfg.noise, cfg.specaugment, cfg.encoder)
        self.cfg: HybridConfig = cfg
        dim = cfg.encoder.d_model
        if cfg.transducer != "none":
            self.decoder = build_predictor(cfg.predictor, cfg.labels, cfg.blank)
            durations = len(cfg.durations) if cfg.transducer == "tdt" else 0
            self.joint = Joint(cfg.joint, dim, cfg.predictor.hidden, cfg.labels, durations, cfg.blank)
        if cfg.transducer == "pruned":
            self.simple_joint = SimpleJoint(dim, cfg.predictor.hidden, cfg.labels)
        if cfg.ctc_weight > 0:
            self.ctc_decoder = CTCHead(dim, cfg.labels + 1, cfg.ctc_dropout)
        if cfg.attention_weight > 0:
            self.attention_decoder = AttentionDecoder(cfg.attention_decoder, dim, cfg.labels, cfg.blank)
        if cfg.language_embedding:
            self.language_embedding = nn.Embedding(len(cfg.languages), dim)
            nn.init.normal_(self.language_embedding.weight, std=cfg.language_init)
        if cfg.language_id_weight > 0:
            self.language_head = LanguageHead(dim, len(cfg.languages))

    @property
    def blank(self) -> int:
        """The blank's id."""
        return self.cfg.blank

    @property
    def ctc_weight(self) -> float:
        """CTC's share of the loss when training is under way; 0 without a CTC head."""
        return self.cfg.ctc_weight

    @property
    def parts(self) -> tuple[str, ...]:
        """The fields of `Losses` that the total is made of and the log shows beside it."""
        cfg = self.cfg
        asked = {
            "transducer": cfg.transducer != "none",
            "simple": cfg.transducer == "pruned",
            "ctc": cfg.ctc_weight > 0,
            "consistency": cfg.cr_ctc_weight > 0,
            "attention": cfg.attention_weight > 0,
        }
        return tuple(name for name, there in asked.items() if there)

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
        self.check_rate(batch)
        views = 2 if self.training and self.cfg.cr_ctc_weight else 1
        heard, enc_lens = self.listen(batch.audio, batch.audio_lens, views)
        seen = _repeated(batch, views)
        enc = self.with_language(heard, self._partly_hidden(batch.langs).repeat(views))
        if self._share(ctc_weight) == 1 and hasattr(self, "joint"):
            # DDP waits for a gradient from every parameter; those of the transducer are zero for now.
            modules = [m for name in ("decoder", "joint", "simple_joint") if (m := getattr(self, name, None))]
            idle = [p.view(-1)[0] for m in modules for p in m.parameters()]
            enc = enc + 0.0 * torch.stack(idle).sum().to(enc.dtype)
        spoken = self.identify(heard, enc_lens) if self.cfg.language_id_weight else None
        return self.losses(enc, enc_lens, seen, generator, ctc_weight, spoken, views=views)

    def losses(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        batch: Batch,
        generator: torch.Generator | None = None,
        ctc_weight: float | None = None,
        spoken: Tensor | None = None,
        *,
        views: int = 1,
    ) -> Losses:
        """The losses of a batch that is encoded already: enc (B, S, D), enc_lens (B,); `spoken` is what
        `identify` returned. With `views` 2 the second half of the rows is the first, masked otherwise: each
        loss is the mean of the two, (B / 2,), and `consistency` is how far they differ."""
        cfg, share = self.cfg, self._share(ctc_weight)
        out = Losses(total=enc.new_zeros(len(enc), dtype=torch.float32))
        if cfg.transducer != "none" and share < 1:
            mine = self._transducer_loss(enc, enc_lens, batch, generator, out)
            out.total = (1 - share) * mine
        if cfg.ctc_weight > 0:
            log_probs = self.ctc_decoder(enc)
            out.ctc = ctc_loss(log_probs, batch.tokens, enc_lens, batch.token_lens, blank=self.blank)
            out.total = _added(out.total, out.ctc, share)
            if views == 2:
                first, second = log_probs.chunk(2)
                out.consistency = cr_ctc_loss(first, second, enc_lens[: len(first)])
        if cfg.attention_weight > 0:
            loss = self.attention_decoder.loss(enc, enc_lens, batch.tokens, batch.token_lens)
            out.attention = loss
            out.total = _added((1 - cfg.attention_weight) * out.total, loss, cfg.attention_weight)
        if spoken is not None:
            out.language = nn.functional.nll_loss(spoken, batch.langs, ignore_index=-1, reduction="none")
            out.total = out.total + cfg.language_id_weight * out.language
        if views == 2:
            out = out.mean_of_views()
        if out.consistency is not None:
            out.total = _added(out.total, out.consistency, cfg.cr_ctc_weight * self._warmth())
        return out

    def _partly_hidden(self, langs: Tensor) -> Tensor:
        """langs (B,), in training some of them unknown."""
        if not (self.training and self.cfg.language_embedding and self.cfg.language_dropout > 0):
            return langs
        hide = torch.rand(len(langs), device=langs.device) < self.cfg.language_dropout
        return langs.masked_fill(hide, -1)

    def _share(self, ctc_weight: float | None) -> float:
        """CTC's share of the transducer's and CTC's loss."""
        if self.cfg.transducer == "none":
            return 1.0
        return self.cfg.ctc_weight if ctc_weight is None else ctc_weight

    def _warmth(self) -> float:
        """0 at the first step, 1 from `loss_warmup` on: how far what has to wait has come in."""
        return min(1.0, self.step / self.cfg.loss_warmup) if self.cfg.loss_warmup else 1.0

    def _transducer_loss(
        self, enc: Tensor, enc_lens: Tensor, batch: Batch, generator: torch.Generator | None, out: Losses
    ) -> Tensor:
        """Joint and loss in one operator, so that the logits of a batch are never held. Fills in `out`;
        returns what counts, (B,)."""
        cfg, joint, pred = self.cfg, self.joint, self.decoder(batch.tokens)
        f, g = joint.project_encoder(enc), joint.project_predictor(pred)
        weight, bias, duration_weight, duration_bias = joint.output_layer()
        settings: dict[str, Any] = {
            "blank": self.blank,
            "activation": cfg.joint.activation,
            "eps": cfg.loss_eps,
        }
        if self.training and cfg.joint.dropout > 0:
            # Of the CPU's generator, whose state checkpoints hold: each step and rank has its own mask.
            settings |= {"dropout": cfg.joint.dropout, "seed": int(torch.randint(2**31, ()))}
        lens = (enc_lens, batch.token_lens)
        if cfg.transducer == "pruned":
            ranges = self._simple_loss(enc, pred, lens, batch, out)
            out.transducer = fused_pruned_rnnt_loss(
                f, g, weight, bias, batch.tokens, ranges, *lens,
                rnnt_type=cfg.pruned.rnnt_type, delay_penalty=cfg.pruned.delay_penalty, **settings,
            )  # fmt: skip
            assert out.simple is not None
            warmth = self._warmth()
            simple_scale = 1 - warmth * (1 - cfg.pruned.simple_scale)
            return _added((0.1 + 0.9 * warmth) * out.transducer, out.simple, simple_scale)
        if cfg.transducer == "rnnt":
            out.transducer = fused_rnnt_loss(f, g, weight, bias, batch.tokens, *lens, **settings)
        else:
            out.transducer = fused_tdt_loss(
                f, g, weight, bias, duration_weight, duration_bias, batch.tokens, *lens,
                durations=cfg.durations, sigma=cfg.sigma,
                omega=cfg.omega if self.training else 0.0, generator=generator, **settings,
            )  # fmt: skip
        return out.transducer

    def _simple_loss(
        self, enc: Tensor, pred: Tensor, lens: tuple[Tensor, Tensor], batch: Batch, out: Losses
    ) -> Tensor:
        """The simple loss into `out`; returns the windows that it finds for the pruned one."""
        cfg = self.cfg.pruned
        am, lm = self.simple_joint(enc, pred)
        out.simple, px_occupation, py_occupation = simple_rnnt_loss(
            am, lm, batch.tokens, *lens, blank=self.blank, lm_only_scale=cfg.lm_scale,
            am_only_scale=cfg.am_scale, rnnt_type=cfg.rnnt_type, delay_penalty=cfg.delay_penalty,
        )  # fmt: skip
        return prune_ranges(px_occupation, py_occupation, *lens, s_range=cfg.s_range, rnnt_type=cfg.rnnt_type)


def _added(total: Tensor, loss: Tensor, weight: float) -> Tensor:
    """total + weight · loss, each (B,), also where the weight is 0 and a loss infinite; DDP gets its zero
    gradients."""
    return total + (weight * loss if weight else 0.0 * loss.masked_fill(loss.isinf(), 0.0))


def _repeated(batch: Batch, views: int) -> Batch:
    """The batch with its targets repeated row after row; the audio as it is."""
    if views == 1:
        return batch
    lens, langs = batch.token_lens.repeat(views), batch.langs.repeat(views)
    return replace(batch, tokens=batch.tokens.repeat(views, 1), token_lens=lens, langs=langs)


def build_model(cfg: HybridConfig) -> HybridModel:
    """A freshly initialised model on the current default device."""
    return HybridModel(cfg)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
