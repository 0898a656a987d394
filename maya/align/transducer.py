"""Forced alignment through a transducer's lattice: the best path of given tokens, with its durations.

The lattice is that of the losses: a node (t, u) for frame t after u tokens, arcs of blank and of the next
token that take 1 and 0 frames (RNN-T) or one of the durations (TDT), and an end after the last frame and
token, which a blank reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.decode.hypothesis import Hypothesis
from maya.errors import MayaError
from maya.heads.transducer import AnyPredictor, Joint

_LOGITS_AT_ONCE = 1 << 24  # 64 MB in fp32
_LOWEST = -1e4  # nats; -inf would make the sums along a frame undefined


@dataclass(frozen=True, slots=True)
class Lattice:
    """Log probabilities of B lattices, fp64: blank (B, T, U+1), label (B, T, U+1) of the next token,
    durations (B, T, U+1, D) of a TDT or None, and the durations in frames."""

    blank: Tensor
    label: Tensor
    duration: Tensor | None
    durations: tuple[int, ...]


@torch.no_grad()
def align_transducer(
    enc: Tensor, enc_lens: Tensor, tokens: Sequence[Sequence[int]], predictor: AnyPredictor, joint: Joint, *,
    blank: int, durations: Sequence[int] | None = None,
) -> list[Hypothesis]:  # fmt: skip
    """enc (B, S, D), enc_lens (B,), the tokens of each row -> hypotheses of these tokens with frames,
    durations and scores on the likeliest path. Put the modules in eval mode first.

    Frames and durations mean the same as in greedy decoding. Raises MayaError where no path exists: without
    frames, and where the longest durations cannot end on the last frame.
    """
    for row in tokens:
        if blank in row:
            raise MayaError(f"the tokens to align hold the blank {blank}; leave it out")
    lattice = make_lattice(enc, tokens, predictor, joint, blank=blank, durations=durations)
    lens = enc_lens.tolist()
    paths = best_paths(lattice, lens, [len(row) for row in tokens])
    hyps = []
    for b, (path, row) in enumerate(zip(paths, tokens, strict=True)):
        if path is None:
            raise MayaError(f"{len(row)} tokens have no path through {lens[b]} frames of this transducer")
        frames, spans = path
        scores = [float(lattice.label[b, frame, u]) for u, frame in enumerate(frames)]
        spans = spans if durations is not None else [1] * len(frames)
        hyps.append(Hypothesis(tokens=list(row), frames=frames, durations=spans, scores=scores))
    return hyps


def make_lattice(
    enc: Tensor, tokens: Sequence[Sequence[int]], predictor: AnyPredictor, joint: Joint, *, blank: int,
    durations: Sequence[int] | None = None,
) -> Lattice:  # fmt: skip
    """The weights of the lattices of enc (B, S, D) with the tokens of each row; logits of a few frames at a
    time, so that memory does not hold (B, S, U, V)."""
    any_label = 1 if blank == 0 else 0  # padding, whose arcs no path takes
    padded = [torch.tensor([*row], dtype=torch.long, device=enc.device) for row in tokens]
    targets = pad_sequence(padded, batch_first=True, padding_value=any_label)
    f, g = joint.project_encoder(enc), joint.project_predictor(predictor(targets))
    following = torch.nn.functional.pad(targets, (0, 1), value=any_label)[:, None, :, None]
    parts: list[tuple[Tensor, ...]] = []
    size = len(enc) * g.shape[1] * (joint.num_tokens + joint.num_durations)
    for part in f.split(max(1, _LOGITS_AT_ONCE // max(1, size)), dim=1):
        by_token, by_duration = joint.split(joint.output(part[:, :, None], g[:, None]))
        by_token = by_token.float().log_softmax(-1)
        label = by_token.gather(-1, following.expand(-1, part.shape[1], -1, -1))[..., 0]
        parts.append((by_token[..., blank], label, by_duration.float().log_softmax(-1)))
    blanks, labels, spans = (torch.cat(column, 1).double() for column in zip(*parts, strict=True))
    return Lattice(
        blank=blanks, label=labels, duration=spans if durations is not None else None,
        durations=(0, 1) if durations is None else tuple(durations),
    )  # fmt: skip


def best_paths(
    lattice: Lattice, frames: Sequence[int], tokens: Sequence[int]
) -> list[tuple[list[int], list[int]] | None]:
    """For each row the frame at which the best path takes each token, and its duration; None for a row
    without a path. frames, tokens: the numbers of each row."""
    arrows = _Search(lattice, frames)
    return [arrows.path(b, frames[b], tokens[b]) for b in range(len(frames))]


class _Search:
    """Viterbi over t. On one frame a row of tokens with duration 0 is a running maximum over u, of the score
    less the sum of their weights, so that each frame is a few operations on (B, U+1)."""

    def __init__(self, lattice: Lattice, frames: Sequence[int]) -> None:
        rows, length, places = lattice.blank.shape
        blank, label = lattice.blank.clamp(min=_LOWEST), lattice.label.clamp(min=_LOWEST)
        self.durations = lattice.durations
        self.is_tdt = lattice.duration is not None
        ends = torch.tensor(list(frames), device=blank.device)
        nowhere = blank.new_full((rows, places), -torch.inf)
        start = nowhere.clone()
        start[:, 0] = 0.0
        places_of_rows = torch.arange(places, device=blank.device).expand(rows, -1)
        alpha, run = self._along(start, label, lattice, 0) if length else (start, places_of_rows)
        alphas, self.runs, self.arcs = [alpha], [run], [torch.zeros_like(start, dtype=torch.int16)]
        for t in range(1, length + 1):
            choices = []
            for d, duration in enumerate(self.durations):
                if duration == 0 or duration > t:
                    choices += [nowhere, nowhere]
                    continue
                source, at = alphas[t - duration], t - duration
                extra = 0.0 if lattice.duration is None else lattice.duration[:, at, :, d].clamp(min=_LOWEST)
                choices.append(source + blank[:, at] + extra)
                if self.is_tdt:
                    # A token must not reach the end: a blank does.
                    inside = torch.where((ends > t)[:, None], source + label[:, at] + extra, -torch.inf)
                    choices.append(torch.nn.functional.pad(inside[:, :-1], (1, 0), value=-torch.inf))
                else:
                    choices.append(nowhere)
            base, arc = torch.stack(choices).max(0)
            alpha, run = base, places_of_rows
            if t < length:
                alpha, run = self._along(base, label, lattice, t)
                last = (ends == t)[:, None]  # no token follows the end
                alpha, run = torch.where(last, base, alpha), torch.where(last, places_of_rows, run)
            alphas.append(alpha)
            self.arcs.append(arc.to(torch.int16))
            self.runs.append(run)
        self.alphas = alphas

    def _along(self, base: Tensor, label: Tensor, lattice: Lattice, t: int) -> tuple[Tensor, Tensor]:
        """(scores, the place at which the tokens taken on this frame begin), each (B, U+1)."""
        places = torch.arange(base.shape[1], device=base.device).expand_as(base)
        if 0 not in self.durations:
            return base, places
        weights = label[:, t]
        if lattice.duration is not None:
            weights = weights + lattice.duration[:, t, :, self.durations.index(0)].clamp(min=_LOWEST)
        sums = torch.nn.functional.pad(weights[:, :-1].cumsum(1), (1, 0))
        best, run = (base - sums).cummax(1)
        # Where the maximum is equal the place itself: as few tokens on a frame as possible.
        run = torch.where(base - sums >= best, places, run)
        return best + sums, run

    def path(self, row: int, frames: int, tokens: int) -> tuple[list[int], list[int]] | None:
        if not frames or not self.alphas[frames][row, tokens] > -torch.inf:
            return None
        at, spans, t, u = [0] * tokens, [0] * tokens, frames, tokens
        while t or u:
            begin = int(self.runs[t][row, u])
            at[begin:u] = [t] * (u - begin)
            u = begin
            if t == 0:
                break
            arc = int(self.arcs[t][row, u])
            duration = self.durations[arc // 2]
            t -= duration
            if arc % 2:
                u -= 1
                at[u], spans[u] = t, duration
        return at, spans
