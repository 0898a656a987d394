"""Tuning a trained model to a few utterances of a speaker or a room: a copy of it learns, with all of its
weights or with LoRA beside its encoder's."""

import copy
from dataclasses import field
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.errors import MayaError
from maya.models.adapters import AdapterConfig, add_adapters, is_adapter
from maya.models.speech_model import SpeechModel
from maya.ranges import Count, PosFloat, Seed

# Of FastConformer's and LaCT's layers: what mixes frames, and both feed-forwards.
_TARGETS = (
    "linear_q", "linear_k", "linear_v", "linear_out", "linear1", "linear2",
    "feed_forward1.0", "feed_forward1.3", "feed_forward2.0", "feed_forward2.3",
)  # fmt: skip


@config
class TuneConfig:
    """The options of tuning. Each step takes all utterances as one batch, masked and with noise as in
    training."""

    weights: Literal["all", "lora"] = "lora"
    lr: PosFloat = 1e-3  # of AdamW, the same from the first step to the last
    steps: Count = 20
    clip: PosFloat = 1.0  # largest norm of the gradients
    lora: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(type="lora", rank=4, alpha=8, targets=_TARGETS)
    )
    seed: Seed = 1


def tune(model: SpeechModel, batch: Batch, cfg: TuneConfig) -> SpeechModel:
    """A copy of `model`, in evaluation mode, that has learnt from `batch`; the model itself stays as it is.

    The running statistics of batch norms do not move: they would be those of a minute of speech. The state of
    torch's random numbers is left as it was. Raises MayaError where nothing of the batch has a usable loss.
    """
    tuned, device = copy.deepcopy(model), next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(cfg.seed)
        if cfg.weights == "lora":
            add_adapters(tuned.encoder, nn.ModuleDict(), cfg.lora)
            for name, p in tuned.named_parameters():
                p.requires_grad_(is_adapter(name))
        tuned.train()
        for module in tuned.modules():
            if isinstance(module, (MaskedBatchNorm, _BatchNorm)):
                module.eval()
        _learn(tuned, batch.to(device), cfg)
    return tuned.eval()


def _learn(model: SpeechModel, batch: Batch, cfg: TuneConfig) -> None:
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=cfg.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(cfg.seed)
    for _ in range(cfg.steps):
        losses = model(batch, generator).total
        usable = losses.isfinite()
        if not usable.any():
            raise MayaError(f"none of {', '.join(batch.ids[:3])} ... can be learnt from: no loss is finite")
        (losses[usable].sum() / batch.token_lens[usable].sum().clamp(min=1)).backward()
        nn.utils.clip_grad_norm_(learning, cfg.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
