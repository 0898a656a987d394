"""E-BATS (2025, arXiv:2506.07078): a prompt vector by an evolution strategy, with no backward pass."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.adapt.adapter import Adaptation, AdaptConfig
from maya.decode.adapt.cma import SearchState, draw, updated
from maya.decode.adapt.objectives import speech_entropy
from maya.decode.adapt.source import SourceStatistics
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.ranges import BelowOne, NonNegFloat, PosFloat, PosInt, Seed

_ALL_BLANK = 10.0  # the entropy term of a candidate that makes every frame blank


@config
class EBATSConfig(AdaptConfig):
    """One vector is added to the output of the encoder's front end. Each utterance has `generations` of
    `population` candidates, each generation one batch; the vector of the least loss, zero among them, stays.

    The loss is the entropy of frames that are not blank, at `temperature`; plus `utterance_weight` times the
    distance of the utterance's mean frame from that of training, over all layers; plus the distance of each
    token's mean and deviation from theirs, which counts the more the less sure the model is. Distances are
    in deviations of training, squared, and means over channels: the paper's are not scaled.

    sigma: of the first candidates, in mean deviations of the front end's channels. decay: with `continual`, a
    search begins with this share of the last search's distribution, and the rest of a new one.
    """

    kind: Literal["ebats"] = "ebats"
    population: PosInt = 20
    generations: PosInt = 10
    sigma: PosFloat = 0.05
    temperature: PosFloat = 2.0
    utterance_weight: NonNegFloat = 2.0
    decay: BelowOne = 0.9
    seed: Seed = 1

    @property
    def needs_source(self) -> bool:
        return True


class EBATS(Adaptation, config=EBATSConfig):
    """Raises MayaError for an encoder without a front end."""

    cfg: EBATSConfig
    source: SourceStatistics

    def __init__(
        self, cfg: EBATSConfig, model: SpeechModel, head: str, source: SourceStatistics | None = None
    ) -> None:
        super().__init__(cfg, model, head, source)
        if not model.encoder.front:
            raise MayaError("this encoder has no front end behind which a prompt could be added")
        self.front = model.encoder.get_submodule(model.encoder.front[-1])
        self.scale = float(self.source.deviations[0].mean())
        self._begin()

    def _begin(self) -> None:
        self.generator = torch.Generator().manual_seed(self.cfg.seed)
        self.state = self._fresh()

    def _fresh(self) -> SearchState:
        return SearchState.start(len(self.source.means[0]), self.cfg.sigma)

    def reset(self) -> None:
        super().reset()
        self._begin()

    @contextmanager
    def prompted(self, prompts: Tensor) -> Iterator[None]:
        """Add prompts (P, D), in units of `scale`, to the front end's output of P rows."""

        def add(module: Any, inputs: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            first = first + (self.scale * prompts[:, None]).to(first)
            return (first, *output[1:]) if isinstance(output, tuple) else first

        handle = self.front.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def adapt(self, feats: Tensor, lens: Tensor, langs: Tensor, hidden: Collection[int]) -> Encoded:
        cfg, state = self.cfg, self.state
        best = torch.zeros(1, len(state.mean))
        least = float(self.losses(best, feats, lens, langs)[0])
        for _ in range(cfg.generations):
            candidates = draw(state, cfg.population, self.generator)
            losses = self.losses(candidates, feats, lens, langs)
            state = updated(state, candidates, losses)
            place = int(losses.argmin())
            if float(losses[place]) < least:
                least, best = float(losses[place]), candidates[place : place + 1]
        if cfg.continual:
            self.state = self._carried(state)
        with self.prompted(best):
            return self.run(feats, lens, hidden)

    def _carried(self, last: SearchState) -> SearchState:
        """Where the next search begins: between a new distribution and the last one."""
        new, share = self._fresh(), self.cfg.decay
        return replace(
            new,
            mean=share * last.mean,
            variance=share * last.variance + (1 - share) * new.variance,
            sigma=share * last.sigma + (1 - share) * new.sigma,
        )

    def losses(self, prompts: Tensor, feats: Tensor, lens: Tensor, langs: Tensor) -> Tensor:
        """prompts (P, D) → (P,) on the CPU, of one utterance (1, T, F)."""
        count, layers = len(prompts), range(len(self.source.means))
        rows = feats.expand(count, -1, -1).contiguous(), lens.expand(count)
        with self.prompted(prompts):
            encoded = self.run(*rows, list(layers))
        logits = self.logits(encoded, langs.expand(count))
        entropy = speech_entropy(logits, self.head.blank, self.cfg.temperature).nan_to_num(nan=_ALL_BLANK)
        states = [encoded.hidden[n] for n in layers]
        certainty = logits.softmax(-1).amax(-1).mean(1).clamp(0, 1)
        total = entropy + self.cfg.utterance_weight * self._utterance_distance(states)
        return (total + (2 - certainty) * self._token_distance(states, logits)).float().cpu()

    def _utterance_distance(self, states: list[Tensor]) -> Tensor:
        layers = zip(states, self.source.means, self.source.deviations, strict=True)
        distances = [((x.mean(1) - mean) / deviation).square().mean(-1) for x, mean, deviation in layers]
        return torch.stack(distances).mean(0)

    def _token_distance(self, states: list[Tensor], logits: Tensor) -> Tensor:
        """(P,) over the tokens, without blank, that the utterance and training have twice or more."""
        source = self.source
        members = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        counts = members.sum(1)  # (P, V)
        compared = (counts >= 2) & (source.counts >= 2)
        compared[:, self.head.blank] = False
        distance = logits.new_zeros(len(logits))
        layers = zip(states, source.token_means, source.token_deviations, source.deviations, strict=True)
        for x, mean, deviation, unit in layers:
            own = torch.einsum("psv,psd->pvd", members, x) / counts.clamp(min=1)[..., None]
            square = torch.einsum("psv,psd->pvd", members, x.square()) / counts.clamp(min=1)[..., None]
            own_deviation = (square - own.square()).clamp(min=0).sqrt()
            away = ((own - mean) / unit).square().mean(-1)
            away = away + ((own_deviation - deviation) / unit).square().mean(-1)
            distance = distance + (away * compared).sum(1) / compared.sum(1).clamp(min=1)
        return distance / len(states)
