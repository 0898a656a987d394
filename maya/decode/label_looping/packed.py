"""Label looping for the CPU: the joint and the predictor run on packed rows, and the host keeps the books.

This form is fast where reading a tensor costs nothing. `masked.py` is the same search for a GPU.
"""

import torch
from torch import Tensor

from maya.decode.confidence import token_confidences
from maya.decode.fusion import select
from maya.decode.label_looping.lstm import PackedPredictor
from maya.decode.label_looping.rules import RowLabels, RowStates, TransducerRules
from maya.kernels import onednn

# Logits that wait for their score and confidence, which are cheaper for many labels at once.
WAITING = 2**20


def packed_labels(
    rules: TransducerRules,
    states: RowStates,
    f: Tensor,
    lens: Tensor,
    final: bool,
    predictor: PackedPredictor,
) -> list[RowLabels]:
    """The labels of one piece: f (B, S, J), lens (B,). `states` moves on; void after a `final` one."""
    search = _PackedSearch(rules, states, f, lens.tolist(), predictor)
    search.run(final)
    states.next_frame = torch.tensor(search.t)
    states.last_frame = torch.tensor(search.last_frame)
    states.on_frame = torch.tensor(search.on_frame)
    states.move_on(lens)
    return search.labels


class _PackedSearch:
    """The books of one piece: lists with an entry a row."""

    def __init__(
        self,
        rules: TransducerRules,
        states: RowStates,
        f: Tensor,
        ends: list[int],
        predictor: PackedPredictor,
    ) -> None:
        self.rules, self.states, self.predictor, self.ends = rules, states, predictor, ends
        self.frames, self.flat = f.shape[1], f.flatten(0, 1)
        self.t: list[int] = states.next_frame.tolist()
        self.last_frame: list[int] = states.last_frame.tolist()
        self.on_frame: list[int] = states.on_frame.tolist()
        self.labels = [RowLabels() for _ in ends]
        self.waiting: list[Tensor] = []  # logits (N, V) without a score yet
        self.waiting_rows: list[int] = []

    def run(self, final: bool) -> None:
        t, ends = self.t, self.ends
        rows = [row for row, end in enumerate(ends) if t[row] < end]
        while rows:
            emitted, logits = self._next_labels(rows)
            if not emitted:
                break
            self._choose(emitted, logits)
            rows = sorted(row for row in emitted if t[row] < ends[row])
            self._advance(rows if final else emitted)
        self._score()

    def _next_labels(self, rows: list[int]) -> tuple[list[int], list[Tensor]]:
        """Skip blanks until each of `rows` has a label or no frames. The rows with a label, and their logits.

        The token is the acoustic one. `t` stays at the frame of the label. Scoring several frames of a row at
        once, in case they are blanks, was slower for TDT and no faster for RNN-T.
        """
        emitted, logits, blank, durations = [], [], self.rules.blank, self.rules.durations
        while rows:
            token_logits, duration_logits = self._joint(rows)
            tokens = argmax(token_logits)
            steps = [1] * len(rows) if durations is None else [durations[i] for i in argmax(duration_logits)]
            pending, taken = [], []
            for i, (row, token, step) in enumerate(zip(rows, tokens, steps, strict=True)):
                if token != blank:
                    taken.append(i)
                    emitted.append(row)
                    self._append(row, self.t[row], token, 0 if durations is None else step)
                else:
                    self.t[row] += max(1, step)
                    if self.t[row] < self.ends[row]:
                        pending.append(row)
            if taken:
                logits.append(
                    token_logits if len(taken) == len(tokens) else token_logits[torch.tensor(taken)]
                )
            rows = pending
        return emitted, logits

    def _joint(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Logits (R, V) and (R, durations) of rows in order, each at its frame."""
        index = torch.tensor([row * self.frames + self.t[row] for row in rows])
        g = (
            self.states.g
            if len(rows) == len(self.ends)
            else self.states.g.index_select(0, torch.tensor(rows))
        )
        return self.rules.joint.split(self.joint_output(self.flat.index_select(0, index), g))

    def joint_output(self, f: Tensor, g: Tensor) -> Tensor:
        """`Joint.output`, with a product that is fast on CPUs."""
        if not self.predictor.onednn:
            return self.rules.joint.output(f, g)
        *hidden, last = self.rules.joint.joint_net
        x = f.add_(g)  # f is this step's own
        for layer in hidden:
            x = layer(x)
        return onednn.apply(last, x)

    def _append(self, row: int, frame: int, token: int, duration: int) -> None:
        labels = self.labels[row]
        labels.tokens.append(token)
        labels.frames.append(frame)
        labels.durations.append(duration)
        self.on_frame[row] = self.on_frame[row] + 1 if frame == self.last_frame[row] else 1
        self.last_frame[row] = frame
        stuck = duration == 0 and self.on_frame[row] >= self.rules.max_symbols
        self.t[row] = frame + duration + stuck

    def _choose(self, emitted: list[int], logits: list[Tensor]) -> None:
        """Let the fusion choose the labels, and keep the logits for the scores."""
        fusion = self.rules.fusion
        if fusion:
            log_probs = torch.cat(logits).float().log_softmax(-1)
            fused = log_probs + fusion.scores(select(self.states.fusion, torch.tensor(emitted)), log_probs)
            fused[:, self.rules.blank] = -torch.inf
            for row, token in zip(emitted, fused.argmax(-1).tolist(), strict=True):
                self.labels[row].tokens[-1] = token
        self.waiting += logits
        self.waiting_rows += emitted
        if len(self.waiting_rows) * logits[0].shape[1] > WAITING:
            self._score()

    def _advance(self, rows: list[int]) -> None:
        """Let the predictor and the fusion read the last label of each row."""
        if not rows:
            return
        states, index = self.states, torch.tensor(rows)
        tokens = [self.labels[row].tokens[-1] for row in rows]
        pred = self.predictor.step(tokens, index, states.predictor)
        layer = self.rules.joint.pred
        states.g.index_copy_(0, index, onednn.apply(layer, pred) if self.predictor.onednn else layer(pred))
        if self.rules.fusion:
            everywhere = torch.full((len(self.ends),), self.rules.blank)
            everywhere[index] = torch.tensor(tokens)
            states.fusion = self.rules.fusion.advance(states.fusion, everywhere)

    def _score(self) -> None:
        """Scores and confidences of the labels that wait for them."""
        rows, self.waiting_rows = self.waiting_rows, []
        if not rows:
            return
        log_probs, confidences = token_confidences(torch.cat(self.waiting), self.rules.confidence)
        self.waiting = []
        tokens = [labels.tokens for labels in self.labels]
        position = [len(labels.scores) for labels in self.labels]
        chosen = []
        for row in rows:
            chosen.append(tokens[row][position[row]])
            position[row] += 1
        scores = log_probs.gather(1, torch.tensor(chosen)[:, None])[:, 0].tolist()
        for row, score in zip(rows, scores, strict=True):
            self.labels[row].scores.append(score)
        for row, confidence in zip(rows, confidences.tolist(), strict=False):
            self.labels[row].confidences.append(confidence)


def argmax(scores: Tensor) -> list[int]:
    """The first best output of each vector (R, N). NumPy is five times as fast as torch at this."""
    best: list[int] = scores.float().numpy().argmax(-1).tolist()
    return best
