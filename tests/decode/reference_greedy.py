"""Greedy decoding as its definition reads: one utterance, one frame, one label at a time."""

import math
from typing import Any

import torch
from torch import Tensor

from maya.decode.confidence import ConfidenceConfig
from maya.decode.fusion import Fusion, Part
from maya.decode.hypothesis import Hypothesis


@torch.no_grad()
def reference_transducer(
    enc: Tensor, predictor: Any, joint: Any, blank: int, durations: Any = None, max_symbols: int = 10,
    fusion: Fusion | None = None,
) -> Hypothesis:  # fmt: skip
    """enc (S, D). The predictor reads the whole history at each frame, and so does the fusion."""
    hyp = Hypothesis()
    t = on_frame = 0
    while t < len(enc):
        history = predictor(torch.tensor([hyp.tokens], dtype=torch.int64))[:, -1:]
        tokens, of_durations = joint.split(joint(enc[None, t : t + 1], history)[0, 0, 0])
        token = int(tokens.argmax())
        advance = int(token == blank) if durations is None else durations[int(of_durations.argmax())]
        if token == blank:
            t, on_frame = t + max(advance, 1), 0
            continue
        log_probs = tokens.float().log_softmax(-1)
        if fusion is not None:
            token = best_label(log_probs + fusion_scores(fusion, hyp.tokens, log_probs), blank)
        hyp.tokens.append(token)
        hyp.frames.append(t)
        hyp.durations.append(1 if durations is None else advance)
        hyp.scores.append(float(log_probs[token]))
        hyp.confidences.append(reference_confidence(log_probs))
        on_frame += 1
        if advance:
            t, on_frame = t + advance, 0
        elif on_frame == max_symbols:
            t, on_frame = t + 1, 0
    return hyp


def reference_ctc(
    log_probs: Tensor, blank: int, fusion: Fusion | None = None, aggregate: Any = min
) -> Hypothesis:
    """log_probs (S, V)."""
    hyp, best = Hypothesis(), log_probs.argmax(-1).tolist()
    chosen: list[int] = []  # of each frame
    values: list[list[float]] = []  # confidences of each token's frames
    for t, acoustic in enumerate(best):
        before, previous = (best[t - 1], chosen[-1]) if t else (blank, blank)
        if acoustic == blank:
            label = blank
        elif acoustic == before:
            label = previous
        elif fusion is None:
            label = acoustic
        else:
            scores = fusion_scores(fusion, hyp.tokens, log_probs[t])
            scores[previous] = 0.0  # blank's is 0 already
            label = best_label(log_probs[t] + scores, blank)
        chosen.append(label)
        if label == blank:
            continue
        score, confidence = float(log_probs[t, label]), reference_confidence(log_probs[t])
        if label == previous:
            hyp.durations[-1] += 1
            hyp.scores[-1] = max(hyp.scores[-1], score)
            values[-1].append(confidence)
            continue
        for name, value in (("tokens", label), ("frames", t), ("durations", 1), ("scores", score)):
            getattr(hyp, name).append(value)
        values.append([confidence])
    hyp.confidences = [aggregate(v) for v in values]
    return hyp


def best_label(scores: Tensor, blank: int) -> int:
    """The best output other than blank of scores (V,)."""
    return max((float(s), -i) for i, s in enumerate(scores) if i != blank)[1] * -1


def fusion_scores(fusion: Fusion, tokens: list[int], like: Tensor) -> Tensor:
    """(V,) after `tokens`, from the start of the text."""
    state = fusion.start(1)
    for token in tokens:
        state = fusion.advance(state, torch.tensor([token]))
    return fusion.scores(state, like[None])[0]


def reference_confidence(log_probs: Tensor, cfg: ConfidenceConfig | None = None) -> float:
    """The formulas as they are printed, in double precision. log_probs (V,)."""
    cfg = cfg or ConfidenceConfig()
    a, probs = float(cfg.alpha), [math.exp(x) for x in log_probs.double().tolist()]
    v, lin = len(probs), cfg.norm == "lin"
    power = sum(p**a for p in probs)
    if cfg.measure == "max_prob":
        return float((max(probs) ** a * v**a - 1) / (v**a - 1))
    if cfg.measure == "gibbs" or a == 1:
        entropy = sum(p**a * math.log(p) for p in probs if p > 0)
        e = v ** (-a * v ** (1 - a))
        lin_value = 1 + entropy / (math.log(v) * v ** (1 - a))
        return lin_value if lin else float((math.exp(a * entropy) - e) / (1 - e))
    if cfg.measure == "tsallis":
        e = math.exp((1 - v ** (1 - a)) / (1 - a))
        exponential = (math.exp((1 - power) / (1 - a)) - e) / (1 - e)
        return float(1 + (1 - power) / (v ** (1 - a) - 1)) if lin else float(exponential)
    if lin:
        return 1 + math.log2(power) / ((a - 1) * math.log2(v))
    return float((power ** (1 / (a - 1)) * v - 1) / (v - 1))


class Bigrams:
    """A scorer with random scores of each label after each label."""

    def __init__(self, outputs: int, blank: int, scale: float = 1.0) -> None:
        self.table, self.blank = torch.randn(outputs, outputs) * scale, blank
        self.table[:, blank] = 0

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> Tensor:
        return torch.full((rows,), self.blank)

    def scores(self, state: Tensor) -> Tensor:
        return self.table[state]

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        return tokens

    def final(self, state: Tensor) -> Tensor:
        return torch.zeros(len(state))


def bigram_fusion(outputs: int, blank: int, weight: float = 1.0, token_bonus: float = 0.1) -> Fusion:
    """A fusion of `Bigrams`."""
    part = Part(weight=weight, scorer=Bigrams(outputs, blank))
    return Fusion([part], blank=blank, token_bonus=token_bonus)
