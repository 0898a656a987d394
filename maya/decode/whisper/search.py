"""Searches for the tokens of Whisper's windows: a line a window, greedy or drawn, and beams."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maya.decode.whisper.rules import TokenRules
from maya.heads.whisper import WhisperDecoder, WhisperState, numbers


@dataclass(kw_only=True, slots=True)
class DecodedWindow:
    """The result of a window. tokens: with timestamps, without the end. scores: log-probability of each, in
    nats. mean: of these and of the end. no_speech: its probability. temperature: of the sampling, 0 for
    greedy. text: of the tokens, and how well it compresses, which tells repetitions."""

    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    mean: float = 0.0
    no_speech: float = 0.0
    temperature: float = 0.0
    compression: float = 0.0

    def rank(self, length_penalty: float) -> float:
        """What the results of a window are compared by, the larger the better."""
        size = len(self.tokens)
        return self.mean * (size + 1) / max(1, size) ** length_penalty


@torch.no_grad()
def search_lines(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]], cfg: Any, temperature: float,
    generator: torch.Generator,
) -> list[DecodedWindow]:  # fmt: skip
    """One sequence for each prompt; the sequences of an utterance of `state` stand together."""
    rules, end = TokenRules(head, cfg.timestamps), head.cfg.tokens.end
    logits, state, silence = _read_prompts(head, state, prompts)
    written: list[list[int]] = [[] for _ in prompts]
    scores: list[list[float]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=logits.device)
    for _ in range(min(cfg.max_tokens, head.cfg.positions - len(prompts[0]))):
        logp = rules(logits, written)
        chosen = _chosen(logp, temperature, generator).masked_fill(done, end)
        values = logp.gather(1, chosen[:, None])[:, 0].masked_fill(done, 0.0).tolist()
        for row, (token, value) in enumerate(zip(chosen.tolist(), values, strict=True)):
            written[row].append(token)
            scores[row].append(value)
        done |= chosen == end
        if bool(done.all()):
            break
        step, state = head.step(chosen[:, None], state)
        logits = step[:, 0]
    windows = [_window(*row, end) for row in zip(written, scores, silence, strict=True)]
    for window in windows:
        window.temperature = temperature
    return windows


@torch.no_grad()
def search_beams(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]], cfg: Any
) -> list[DecodedWindow]:
    """The best of cfg.beam hypotheses for each prompt, an utterance of `state` each.

    A step takes the 2 * beam likeliest continuations of an utterance. Those of the first `beam` that end are
    results, and the next ones that do not end take their places, as in CTranslate2. An utterance is done with
    beam * patience results. The best one has the largest sum of log-probabilities, the end's included, over
    its number of tokens to the power of cfg.length_penalty.
    """
    rules, end, width = TokenRules(head, cfg.timestamps), head.cfg.tokens.end, cfg.beam
    logits, state, silence = _read_prompts(head, state, prompts)
    beams = [[_Beam()] for _ in prompts]  # of each utterance, equally many
    results: list[list[_Beam]] = [[] for _ in prompts]
    wanted = max(1, round(width * cfg.patience))
    last = min(cfg.max_tokens, head.cfg.positions - len(prompts[0])) - 1
    for position in range(last + 1):
        rows = [beam for own in beams for beam in own]
        logp = rules(logits, [beam.tokens for beam in rows])
        totals = torch.tensor([beam.total for beam in rows], dtype=logp.dtype, device=logp.device)
        sums = (logp + totals[:, None]).view(len(prompts), -1)
        best = sums.topk(min(2 * width, sums.shape[1]))
        sources: list[int] = []
        for n, (values, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            own, size = beams[n], logp.shape[1]
            candidates = [
                (place // size, own[place // size].followed(place % size, value))
                for place, value in zip(places, values, strict=True)
            ]
            ended = [beam for _, beam in candidates[:width]
                     if (beam.tokens[-1] == end or position == last) and beam.total > -torch.inf]  # fmt: skip
            results[n] += ended if len(results[n]) < wanted else []
            going = [pair for pair in candidates if pair[1].tokens[-1] != end]
            sources += [n * len(own) + place for place, _ in going[:width]]
            beams[n] = [beam for _, beam in going[:width]]
        if position == last or all(len(own) >= wanted for own in results):
            break
        order = numbers([sources], logp)[0]
        past = tuple((k[order], v[order]) for k, v in state.past)
        state = WhisperState(state.frames, state.seen, past)
        read = numbers([[beam.tokens[-1]] for own in beams for beam in own], logp)
        step, state = head.step(read, state)
        logits = step[:, 0]
    windows = [[_window(beam.tokens, beam.scores, quiet, end) for beam in own or [_Beam()]]
               for own, quiet in zip(results, silence, strict=True)]  # fmt: skip
    return [max(own, key=lambda window: window.rank(cfg.length_penalty)) for own in windows]


@dataclass(frozen=True, slots=True)
class _Beam:
    """Tokens, the log-probability of each, and their sum, -inf where a token may not follow."""

    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    total: float = 0.0

    def followed(self, token: int, total: float) -> "_Beam":
        return _Beam([*self.tokens, token], [*self.scores, total - self.total], total)


def _read_prompts(
    head: WhisperDecoder, state: WhisperState, prompts: Sequence[Sequence[int]]
) -> tuple[Tensor, WhisperState, list[float]]:
    """Logits (N, V) of the first tokens, the state, and the probability of each row that nobody speaks."""
    logits, state = head.step(numbers(prompts, head.token_embedding.weight), state)
    start = list(prompts[0]).index(head.cfg.tokens.start)
    silence = logits[:, start].softmax(-1)[:, head.cfg.tokens.no_speech]
    return logits[:, -1], state, silence.tolist()


def _window(tokens: list[int], scores: list[float], no_speech: float, end: int) -> DecodedWindow:
    """The result of a row, up to its end."""
    size = tokens.index(end) if end in tokens else len(tokens)
    mean = sum(scores[: size + 1]) / (size + 1)
    return DecodedWindow(tokens=tokens[:size], scores=scores[:size], mean=mean, no_speech=no_speech)


def _chosen(logp: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(N, V) -> (N,): the likeliest token, or a draw on the CPU, which is alike on every device."""
    if not temperature:
        return logp.argmax(-1)
    shares = (logp / temperature).softmax(-1).cpu()
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logp.device)
