"""Beam searches of transducers and CTC as their definitions read, one utterance at a time, in Python; and
random models whose outputs are read from a table, so that any lattice can be made."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maya.decode.beams.transducer_beams import TransducerParts
from maya.decode.fusion import State
from maya.encoders import Encoded

Path = tuple[int, ...]
Outputs = Callable[[int, Path], tuple[list[float], list[float]]]
"""Log probabilities of tokens and of durations at a frame after labels."""
Text = Callable[[Path], tuple[list[float], float]]
"""What the text adds to each next token, and what its end adds."""


@dataclass(frozen=True)
class TableState:
    """The node of the table that each hypothesis stands at, (N,)."""

    node: Tensor

    def select(self, rows: Tensor) -> "TableState":
        return TableState(self.node[rows])

    def where(self, mask: Tensor, other: "TableState") -> "TableState":
        return TableState(torch.where(mask, self.node, other.node))


class TableTransducer:
    """A transducer whose logits are `table[frame, node]`, and the next node `follow[node, token]`. It is
    both predictor and joint; the frames (B, S, 1) hold their numbers."""

    def __init__(self, table: Tensor, follow: Tensor, blank: int, durations: Sequence[int] | None) -> None:
        self.table, self.follow, self.blank = table, follow, blank
        self.num_durations = len(durations or ())
        self.num_tokens = table.shape[-1] - self.num_durations
        self.parts = TransducerParts(
            predictor=self, joint=self, blank=blank, durations=tuple(durations) if durations else None
        )  # type: ignore[arg-type]
        self._log_probs = tuple(x.log_softmax(-1).numpy() for x in self.split(table))
        self._follow = follow.tolist()

    def initial_state(self, batch: int, device: Any = None) -> TableState:
        return TableState(torch.zeros(batch, dtype=torch.int64))

    def step(self, tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        node = torch.where(tokens == self.blank, state.node, self.follow[state.node, tokens])
        return node[:, None].double(), TableState(node)

    def project_encoder(self, enc: Tensor) -> Tensor:
        return enc

    def project_predictor(self, pred: Tensor) -> Tensor:
        return pred

    def output(self, f: Tensor, g: Tensor) -> Tensor:
        return self.table[f[..., 0].long(), g[..., 0].long()]

    def split(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.split([self.num_tokens, self.num_durations], -1)

    def encoded(self, lens: Sequence[int], frames: int) -> Encoded:
        """Rows of which each has frames of its own in the table."""
        numbers = torch.arange(len(lens) * frames, dtype=torch.float64).view(len(lens), frames, 1)
        return Encoded(numbers, torch.tensor(lens))

    def outputs(self, first_frame: int) -> Outputs:
        """The outputs of the row whose first frame has this number."""

        def outputs(frame: int, path: Path) -> tuple[list[float], list[float]]:
            node = walk(self._follow, path)
            tokens, durations = (x[first_frame + frame, node].tolist() for x in self._log_probs)
            return tokens, durations

        return outputs


def walk(follow: list[list[int]], path: Path) -> int:
    """The node after labels."""
    node = 0
    for token in path:
        node = follow[node][token]
    return node


@dataclass(frozen=True)
class TableScorer:
    """A scorer over the same nodes: table (nodes, V), ends (nodes,)."""

    table: Tensor
    ends: Tensor
    follow: Tensor

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        return (torch.zeros(rows, dtype=torch.int64),)

    def scores(self, state: State) -> Tensor:
        return self.table[state[0]]

    def advance(self, state: State, tokens: Tensor) -> State:
        return (self.follow[state[0], tokens],)

    def final(self, state: State) -> Tensor:
        return self.ends[state[0]]

    def text(self, weight: float) -> Text:
        scores, ends, follow = (
            (weight * self.table).tolist(),
            (weight * self.ends).tolist(),
            self.follow.tolist(),
        )

        def text(path: Path) -> tuple[list[float], float]:
            node = walk(follow, path)
            return scores[node], ends[node]

        return text


@dataclass
class Hyp:
    """A hypothesis of a reference search. frames: of its labels, on the likeliest path."""

    path: Path
    score: float
    frame: int = 0
    on_frame: int = 0
    frames: Path = ()


def log_add(*values: float) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))


@dataclass(frozen=True)
class ReferenceBeam:
    """One utterance's search. durations: None for an RNN-T. text: what the text adds, if anything."""

    outputs: Outputs
    length: int
    blank: int
    durations: Sequence[int] | None
    beam: int
    text: Text | None = None
    length_norm: bool = False

    def alsd(self, max_symbols: int) -> list[tuple[Path, Path, float]]:
        beams = [Hyp((), 0.0)]
        while any(h.frame < self.length for h in beams):
            active = [h.frame < self.length for h in beams]
            beams = self.step(beams, active, max_symbols=max_symbols)
        return self.ranked(beams)

    def modified(self) -> list[tuple[Path, Path, float]]:
        beams = [Hyp((), 0.0)]
        for frame in range(self.length):
            beams = self.step(beams, [h.frame == frame for h in beams], least=1)
        return self.ranked(beams)

    def maes(self, num_steps: int, gamma: float, beta: int) -> list[tuple[Path, Path, float]]:
        beams = [Hyp((), 0.0)]
        for frame in range(self.length):
            for symbols in range(num_steps + 1):
                active = [h.frame == frame for h in beams]
                beams = self.step(
                    beams, active, gamma=gamma, tried=self.beam + beta, labels=symbols < num_steps
                )
        return self.ranked(beams)

    def step(
        self, beams: list[Hyp], active: list[bool], *, max_symbols: int = 0, least: int = 0,
        gamma: float = math.inf, tried: int = 10**9, labels: bool = True,
    ) -> list[Hyp]:  # fmt: skip
        reached: list[Hyp] = []
        for hyp, expand in zip(beams, active, strict=True):
            if not expand:
                reached.append(hyp)
                continue
            gains = self.gains(hyp)
            if not labels:
                gains = {key: gain for key, gain in gains.items() if key[0] == self.blank}
            tokens = {token: max(g for (t, _), g in gains.items() if t == token) for token, _ in gains}
            allowed = sorted(tokens, key=tokens.__getitem__, reverse=True)[:tried]
            best = max(gains.values())
            for (token, duration), gain in gains.items():
                if token in allowed and gain >= best - gamma:
                    reached.append(self.moved(hyp, token, duration, gain, max_symbols, least))
        reached.sort(key=lambda h: h.score, reverse=True)
        merged: dict[tuple[Path, int], Hyp] = {}
        for hyp in reached[: self.beam]:
            same = merged.setdefault((hyp.path, hyp.frame), hyp)
            if same is not hyp:
                same.score = log_add(same.score, hyp.score)
        return list(merged.values())

    def gains(self, hyp: Hyp) -> dict[tuple[int, int], float]:
        """The gain of each token with each duration."""
        tokens, durations = self.outputs(hyp.frame, hyp.path)
        extra = self.text(hyp.path)[0] if self.text else [0.0] * len(tokens)
        pairs = [(0, 0.0)] if self.durations is None else list(zip(self.durations, durations, strict=True))
        return {
            (token, d): gain + extra[token] + of_duration
            for token, gain in enumerate(tokens)
            for d, of_duration in pairs
        }

    def moved(self, hyp: Hyp, token: int, duration: int, gain: float, max_symbols: int, least: int) -> Hyp:
        advance = max(duration, 1 if token == self.blank else least)
        is_label = token != self.blank
        on_frame = hyp.on_frame + is_label
        if max_symbols and is_label and advance == 0 and on_frame >= max_symbols:
            advance = 1
        path, frames = hyp.path, hyp.frames
        if is_label:
            path, frames = (*path, token), (*frames, hyp.frame)
        frame = min(hyp.frame + advance, self.length)
        return Hyp(path, hyp.score + gain, frame, 0 if advance else on_frame, frames)

    def ranked(self, beams: list[Hyp]) -> list[tuple[Path, Path, float]]:
        """Labels, frames and scores, best first."""
        complete = []
        for hyp in beams:
            score = hyp.score + (self.text(hyp.path)[1] if self.text else 0.0)
            complete.append(
                (hyp.path, hyp.frames, score / (len(hyp.path) + 1) if self.length_norm else score)
            )
        return sorted(complete, key=lambda x: x[2], reverse=True)

    def every_path(self) -> dict[Path, float]:
        """The log probability of each text, summed over all alignments by following every one of them."""
        totals: dict[Path, float] = {}

        def follow(hyp: Hyp) -> None:
            if hyp.frame >= self.length:
                totals[hyp.path] = log_add(totals.get(hyp.path, -math.inf), hyp.score)
                return
            for (token, duration), gain in self.gains(hyp).items():
                if gain > -math.inf:
                    follow(self.moved(hyp, token, duration, gain, 0, 0))

        follow(Hyp((), 0.0))
        return totals
