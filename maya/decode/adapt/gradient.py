"""Adaptation by gradients: SUTA, DSUTA, and LoRA on the model's own hypotheses."""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from maya.config import config
from maya.decode.adapt.adapter import Adaptation, AdaptConfig
from maya.decode.adapt.objectives import class_confusion, speech_entropy
from maya.decode.adapt.source import SourceStatistics
from maya.encoders import Encoded
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.losses import ctc_loss
from maya.models.adapters import AdapterConfig, add_adapters
from maya.models.speech_model import SpeechModel
from maya.ranges import Count, PosFloat, PosInt, Seed, Share

_NORMS = (nn.LayerNorm, nn.RMSNorm, _BatchNorm, MaskedBatchNorm, BiasNorm)
Utterance = tuple[Tensor, Tensor, Tensor]  # features (1, T, F), lens (1,), langs (1,)


@config
class EntropyConfig(AdaptConfig):
    """Steps of AdamW on an utterance, over the encoder's normalisations and its front end. The loss is
    `entropy_share` times the entropy of frames that are not blank, plus the rest times class confusion, both
    at `temperature`."""

    steps: Count = 10
    lr: PosFloat = 1e-3  # the paper's is 1e-4, for a model of 95 M parameters
    temperature: PosFloat = 2.5
    entropy_share: Share = 0.3


@config
class SUTAConfig(EntropyConfig):
    """SUTA (Lin et al. 2022, arXiv:2203.14222)."""

    kind: Literal["suta"] = "suta"


class SUTA(Adaptation, config=SUTAConfig):
    """Statistics of batch norms stay; their scales and shifts learn."""

    cfg: Any

    def __init__(
        self, cfg: Any, model: SpeechModel, head: str, source: SourceStatistics | None = None
    ) -> None:
        super().__init__(cfg, model, head, source)
        self._begin()

    def _begin(self) -> None:
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.cfg.lr, weight_decay=0.0)

    def choose(self) -> list[nn.Parameter]:
        encoder = self.model.encoder
        parts: list[nn.Module] = [m for m in encoder.modules() if isinstance(m, _NORMS)]
        parts += [encoder.get_submodule(name) for name in encoder.front]
        return list({id(p): p for part in parts for p in part.parameters()}.values())

    def loss(self, utterance: Utterance) -> Tensor | None:
        """The loss of an utterance; None where every frame is blank, and nothing can be learnt."""
        feats, lens, langs = utterance
        logits = self.logits(self.run(feats, lens), langs)
        entropy = speech_entropy(logits, self.head.blank, self.cfg.temperature)
        if not entropy.isfinite().all():
            return None
        share = self.cfg.entropy_share
        return (share * entropy + (1 - share) * class_confusion(logits, self.cfg.temperature)).mean()

    def learn(self, utterances: Sequence[Utterance], steps: int) -> None:
        """So many steps on the mean loss of these utterances."""
        with self.learning():
            for _ in range(steps):
                usable = 0
                for utterance in utterances:
                    loss = self.loss(utterance)
                    if loss is not None and loss.isfinite():
                        (loss / len(utterances)).backward()
                        usable += 1
                if not usable:
                    return
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        self.learn([(feats, lens, langs)], self.cfg.steps)
        return self.run(feats, lens, hidden)

    def reset(self) -> None:
        super().reset()
        self._begin()


@config
class DSUTAConfig(EntropyConfig):
    """Dynamic SUTA (Lin et al. 2024, arXiv:2406.11064): continual by fast and slow parameters.

    Each utterance is decoded by fast parameters, which begin with the slow ones and make `steps` steps. The
    slow ones make one step on every `buffer` utterances. After `domain` utterances the loss of a snapshot
    from their middle, less that of the model as loaded, has a mean and a deviation; when the mean of a buffer
    is more than 2 deviations worse, `patience` times in a row, the slow parameters begin anew.
    """

    kind: Literal["dsuta"] = "dsuta"
    continual: bool = True
    buffer: PosInt = 5
    domain: PosInt = 100
    patience: PosInt = 2


class DSUTA(SUTA, config=DSUTAConfig):
    resets: int = 0

    def _begin(self) -> None:
        super()._begin()
        self.slow, self.slow_state = self._start, self.optimizer.state_dict()
        self.recent: list[Utterance] = []
        self.count = 0
        self.snapshot: list[Tensor] | None = None
        self.changes: list[float] = []
        self.failures = 0

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        cfg = self.cfg
        self.put(self.slow)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=cfg.lr, weight_decay=0.0)
        self.learn([(feats, lens, langs)], cfg.steps)
        encoded = self.run(feats, lens, hidden)
        self._follow((feats, lens, langs))
        return encoded

    def _follow(self, utterance: Utterance) -> None:
        """Move the slow parameters where it is time to."""
        cfg = self.cfg
        self.recent.append(utterance)
        self.count += 1
        if self.count == cfg.domain // 2:
            self.snapshot = self.slow
        elif cfg.domain // 2 < self.count <= cfg.domain:
            self.changes.append(self._change(utterance))
        if len(self.recent) < cfg.buffer:
            return
        if self._shifted():
            self.resets += 1
            resets = self.resets
            self._begin()
            self.resets = resets
            return
        self.put(self.slow)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=cfg.lr, weight_decay=0.0)
        self.optimizer.load_state_dict(self.slow_state)
        self.learn(self.recent, 1)
        self.slow, self.slow_state = self.take(), self.optimizer.state_dict()
        self.recent = []

    def _change(self, utterance: Utterance) -> float:
        """The loss of the snapshot less that of the model as loaded."""
        losses = []
        for values in (self.snapshot or self._start, self._start):
            self.put(values)
            with torch.no_grad():
                loss = self.loss(utterance)
            losses.append(0.0 if loss is None else float(loss))
        return losses[0] - losses[1]

    def _shifted(self) -> bool:
        """Whether the speech is of another domain than that of the snapshot."""
        if self.count <= self.cfg.domain or len(self.changes) < 2:
            return False
        mean, deviation = statistics.mean(self.changes), statistics.stdev(self.changes)
        change = statistics.mean(map(self._change, self.recent))
        worse = change - mean > 2 * deviation / len(self.recent) ** 0.5
        self.failures = self.failures + 1 if worse else 0
        return self.failures >= self.cfg.patience


@config
class PseudoLabelsConfig(AdaptConfig):
    """LoRA beside the encoder's linear layers learns, by CTC, the model's own greedy hypothesis."""

    kind: Literal["pseudo_labels"] = "pseudo_labels"
    steps: Count = 5
    lr: PosFloat = 1e-3
    lora: AdapterConfig = field(default_factory=lambda: AdapterConfig(type="lora", rank=4, alpha=8))
    seed: Seed = 1  # of LoRA's matrices


class PseudoLabels(SUTA, config=PseudoLabelsConfig):
    """The hypothesis is that of the model as it is when the utterance comes."""

    def choose(self) -> list[nn.Parameter]:
        device = next(self.model.parameters()).device
        before = {id(p) for p in self.model.parameters()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.cfg.seed)
            add_adapters(self.model.encoder, nn.ModuleDict(), self.cfg.lora)
        return [p for p in self.model.encoder.parameters() if id(p) not in before]

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        encoded = self.run(feats, lens, hidden)
        labels = self.logits(encoded, langs)[0].argmax(-1).unique_consecutive()
        self.labels = labels[labels != self.head.blank]
        if not len(self.labels) or not self.cfg.steps:
            return encoded
        self.learn([(feats, lens, langs)], self.cfg.steps)
        return self.run(feats, lens, hidden)

    def loss(self, utterance: Utterance) -> Tensor | None:
        feats, lens, langs = utterance
        encoded = self.run(feats, lens)
        log_probs = self.logits(encoded, langs).log_softmax(-1)
        size = torch.tensor([len(self.labels)], device=lens.device)
        losses = ctc_loss(log_probs, self.labels[None], encoded.lens, size, blank=self.head.blank)
        return losses.sum() / len(self.labels)

    def close(self) -> None:
        super().close()
        own = {id(p) for p in self.parameters}
        for layer in list(self.model.encoder.modules()):
            if not parametrize.is_parametrized(layer, "weight"):
                continue
            added: Any = layer.parametrizations["weight"]  # type: ignore[index]
            if own & {id(p) for p in added.parameters()}:
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
