"""Label looping without a wait of the host: all rows at once, masks instead of packing, fixed shapes.

A step looks at the next WINDOW frames of each row. Where it meets a label it takes it, and the predictor
reads it; else it goes past the window. `MaskedSearch.step` works in place and reads nothing on the host, so
that a CUDA graph can hold it (`cuda_graph.py`). On a CPU `packed.py` is faster.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from maya.decode.confidence import token_confidences
from maya.decode.fusion import select
from maya.decode.label_looping.rules import RowLabels, RowStates, TransducerRules
from maya.kernels import host

WINDOW = 8  # frames that a step looks at. A GPU computes their joint vectors in the time of one.

LABELS = ("tokens", "frames", "durations")
SCORES = ("scores", "confidences")


@dataclass(kw_only=True, slots=True)
class _Stop:
    """Where each row stops: frame, acoustic token and duration (B,) each, logits (B, V)."""

    frame: Tensor
    token: Tensor
    duration: Tensor
    logits: Tensor


class MaskedSearch:
    """The tensors of a search of up to `batch` rows and `frames` frames, for one piece after another."""

    def __init__(self, rules: TransducerRules, batch: int, frames: int) -> None:
        self.rules, self.batch, self.frames = rules, batch, frames
        weight = rules.joint.enc.weight
        device = weight.device
        whole: dict[str, Any] = {"device": device}
        self.f = torch.zeros(batch * frames, weight.shape[0], dtype=weight.dtype, device=device)
        self.lens = torch.zeros(batch, dtype=torch.int64, device=device)
        self.states = RowStates.start(rules, batch)
        for name in ("next_frame", "on_frame"):  # tensors of their own
            setattr(self.states, name, torch.zeros_like(self.lens))
        self.active = torch.zeros((), dtype=torch.bool, device=device)
        self.every_row = torch.arange(batch, **whole)
        self.row_starts = self.every_row * frames
        self.window = torch.arange(WINDOW, **whole)
        longest = max(rules.durations or (1,))
        self.beyond = torch.arange(WINDOW, WINDOW + max(longest, 1), **whole).expand(batch, -1)
        self.durations = host.numbers_on(weight.device, rules.durations or (0,))
        self.count = torch.zeros_like(self.lens)
        # A row without a label writes to the last column, which is never read.
        shape = (batch, frames * rules.max_symbols + 1)
        self.columns = {name: torch.zeros(shape, dtype=torch.int64, **whole) for name in LABELS} | {
            name: torch.zeros(shape, **whole) for name in SCORES
        }

    @property
    def most_steps(self) -> int:
        """No piece takes more: each step of a row takes a label or leaves a window."""
        return self.frames * self.rules.max_symbols + self.frames // WINDOW + 1

    def load(self, states: RowStates, f: Tensor, lens: Tensor) -> None:
        """Begin a piece: f (B, S, J), lens (B,) for at most `batch` rows and `frames` frames."""
        rows, frames = f.shape[:2]
        self.f.view(self.batch, self.frames, -1)[:rows, :frames] = f
        self.lens.zero_()[:rows] = lens.clamp(max=frames)
        padded = self.every_row.clamp(max=rows - 1)
        self.states.predictor.put(self.every_row, states.predictor.select(padded))
        for name in ("g", "next_frame", "last_frame", "on_frame"):
            getattr(self.states, name).copy_(getattr(states, name).index_select(0, padded))
        if self.rules.fusion:
            self._put_fusion(select(states.fusion, padded))
        self.count.zero_()
        self._look()

    def store(self, states: RowStates, lens: Tensor) -> None:
        """End a piece: the states of its rows go back to `states`, which moves on by lens (B,) frames."""
        rows = torch.arange(len(lens), device=self.lens.device)
        states.predictor = self.states.predictor.select(rows)
        for name in ("g", "next_frame", "last_frame", "on_frame"):
            setattr(states, name, getattr(self.states, name).index_select(0, rows))
        if self.rules.fusion:
            states.fusion = select(self.states.fusion, rows)
        states.move_on(lens)

    def _put_fusion(self, new: object) -> None:
        """Write a state of the fusion in place. The first one makes the tensors."""
        if self.states.fusion is None:
            self.states.fusion = tree_map(torch.clone, new)
        else:
            tree_map(lambda x, y: x.copy_(y), self.states.fusion, new)

    def _look(self) -> None:
        self.active.copy_((self.states.next_frame < self.lens).any())

    @torch.no_grad()
    def step(self) -> None:
        """The next label of each row, or the end of its window. A row at its end stays as it is."""
        rules, states = self.rules, self.states
        frames = states.next_frame[:, None] + self.window
        inside = frames < self.lens[:, None]
        last = (self.lens[:, None] - 1).clamp(min=0)
        index = self.row_starts[:, None] + frames.minimum(last)
        f = self.f.index_select(0, index.flatten()).unflatten(0, index.shape)
        logits, duration_logits = rules.joint.split(rules.joint.output(f, states.g[:, None]))
        tokens = logits.argmax(-1)
        is_blank = tokens == rules.blank
        durations = is_blank.long()
        if rules.durations is not None:
            durations = self.durations[duration_logits.argmax(-1)]
        position = self._follow(torch.where(is_blank & inside, durations.clamp(min=1), 0))
        at = position.clamp(max=WINDOW - 1)[:, None]
        emitted = (position < WINDOW) & (inside & ~is_blank).gather(1, at)[:, 0]
        best = _Stop(
            frame=states.next_frame + position, token=tokens.gather(1, at)[:, 0],
            duration=durations.gather(1, at)[:, 0], logits=logits.take_along_dim(at[..., None], 1)[:, 0],
        )  # fmt: skip
        self._move(emitted, best.frame, best.duration, self._record(emitted, best))
        self._look()

    def _follow(self, hops: Tensor) -> Tensor:
        """Where each row stops that hops over blanks from position 0. hops (B, WINDOW): 0 at a stop. A result
        of WINDOW or more is beyond the window."""
        target = torch.cat([self.window + hops, self.beyond], 1)
        for _ in range((WINDOW - 1).bit_length()):  # pointer doubling
            target = target.gather(1, target)
        return target[:, 0]

    def _record(self, emitted: Tensor, best: "_Stop") -> Tensor:
        """Write the labels of the rows `emitted` (B,) into the columns → the tokens (B,), after fusion."""
        rules, token = self.rules, best.token
        log_probs, confidence = token_confidences(best.logits, rules.confidence)
        if rules.fusion:
            fused = log_probs + rules.fusion.scores(self.states.fusion, log_probs)
            fused.select(1, rules.blank).fill_(-torch.inf)
            token = fused.argmax(-1)
        values = {"tokens": token, "frames": best.frame, "durations": best.duration}
        values["scores"] = log_probs.gather(1, token[:, None])[:, 0]
        if rules.confidence:
            values["confidences"] = confidence
        column = torch.where(emitted, self.count, self.columns["tokens"].shape[1] - 1)[:, None]
        for name, value in values.items():
            self.columns[name].scatter_(1, column, value[:, None])
        self.count += emitted
        return token

    def _move(self, emitted: Tensor, frame: Tensor, duration: Tensor, token: Tensor) -> None:
        """The states after the labels of the rows `emitted`; the others go to `frame`. All (B,)."""
        rules, states = self.rules, self.states
        on_frame = torch.where(frame == states.last_frame, states.on_frame + 1, 1)
        stuck = (duration == 0) & (on_frame >= rules.max_symbols)
        states.on_frame.copy_(torch.where(emitted, on_frame, states.on_frame))
        states.last_frame.copy_(torch.where(emitted, frame, states.last_frame))
        states.next_frame.copy_(frame + torch.where(emitted, duration + stuck, 0))
        label = torch.where(emitted, token, rules.blank)
        pred, new = rules.predictor.step(label, states.predictor)
        states.predictor.put(self.every_row, new.where(emitted, states.predictor))
        states.g.copy_(torch.where(emitted[:, None], rules.joint.project_predictor(pred), states.g))
        if rules.fusion:
            self._put_fusion(rules.fusion.advance(states.fusion, label))

    def labels(self, rows: int) -> list[RowLabels]:
        """The labels of the first `rows` rows. This waits for the device: a transfer for each column."""
        counts = self.count[:rows].tolist()
        longest = max(counts, default=0)
        names = [*LABELS, *(SCORES if self.rules.confidence else SCORES[:1])]
        columns = {name: self.columns[name][:rows, :longest].tolist() for name in names}
        return [RowLabels(**{name: columns[name][row][:n] for name in names}) for row, n in enumerate(counts)]


def masked_labels(
    search: MaskedSearch, states: RowStates, f: Tensor, lens: Tensor, run: Callable[[MaskedSearch], None]
) -> list[RowLabels]:
    """The labels of one piece: f (B, S, J), lens (B,). `run` makes the steps. `states` moves on."""
    search.load(states, f, lens)
    run(search)
    labels = search.labels(len(f))
    search.store(states, lens)
    return labels


def run_steps(search: MaskedSearch) -> None:
    """Step while a row is active, which the host reads before each step."""
    while bool(search.active):
        search.step()
