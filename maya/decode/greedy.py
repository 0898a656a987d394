"""Greedy transducer decoding of a whole batch by label looping (Bataev et al. 2024, arXiv 2406.06220).

The outer loop goes over labels: the predictor runs once per label for all rows. The inner loop skips blanks,
and evaluates the joint only for the rows that still look for their next label. As every row that goes on has
emitted exactly one label per outer step, all predictor states advance together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maya.decode.ctc import greedy_ctc
from maya.decode.hypothesis import Hypothesis
from maya.heads.transducer import AnyPredictor, Joint


def greedy_tdt(
    enc: Tensor,
    enc_lens: Tensor,
    predictor: AnyPredictor,
    joint: Joint,
    *,
    durations: Sequence[int],
    blank: int,
    max_symbols: int = 10,
) -> list[Hypothesis]:
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row; put the modules in eval mode first.

    A blank advances by its predicted duration, at least 1; a label by its predicted duration, which may be
    0. After `max_symbols` labels on one frame the row moves on by one. An utterance may end on a label, and
    its last duration may reach past its end.
    """
    if joint.num_durations != len(durations):
        raise ValueError(
            f"greedy_tdt: {len(durations)} durations, but the joint scores {joint.num_durations}"
        )
    return _label_looping(enc, enc_lens, predictor, joint, tuple(durations), blank, max_symbols)


def greedy_rnnt(
    enc: Tensor, enc_lens: Tensor, predictor: AnyPredictor, joint: Joint, *, blank: int, max_symbols: int = 10
) -> list[Hypothesis]:
    """As `greedy_tdt` for RNN-T: a blank advances by 1, a label by 0. Duration outputs are ignored."""
    return _label_looping(enc, enc_lens, predictor, joint, None, blank, max_symbols)


@dataclass(slots=True)
class _Labels:
    """The labels of one outer step, each (B,); rows without a label hold blank."""

    token: Tensor
    frame: Tensor
    duration: Tensor
    score: Tensor


@torch.no_grad()
def _label_looping(
    enc: Tensor,
    enc_lens: Tensor,
    predictor: AnyPredictor,
    joint: Joint,
    durations: tuple[int, ...] | None,
    blank: int,
    max_symbols: int,
) -> list[Hypothesis]:
    if max_symbols < 1:
        raise ValueError(f"max_symbols must be at least 1, not {max_symbols}")
    batch, device = enc.shape[0], enc.device
    f = joint.project_encoder(enc)
    lens = enc_lens.to(device)
    advances = None if durations is None else torch.tensor(durations, device=device)
    state: Any = predictor.initial_state(batch, device)  # of the predictor's kind
    token = torch.full((batch,), blank, device=device)
    t = torch.zeros_like(token)
    last_frame, on_frame = torch.full_like(t, -1), torch.zeros_like(t)
    steps: list[_Labels] = []
    rows = (t < lens).nonzero()[:, 0]
    while len(rows):
        pred, state = predictor.step(token, state)
        labels, t = _next_labels(f, joint.project_predictor(pred), joint, t, lens, rows, advances, blank)
        steps.append(labels)
        token, found = labels.token, labels.token != blank
        on_frame = torch.where(labels.frame == last_frame, on_frame + 1, 1)
        last_frame = labels.frame
        stuck = (labels.duration == 0) & (on_frame >= max_symbols)
        t = t + torch.where(found, labels.duration + stuck, 0)
        rows = (found & (t < lens)).nonzero()[:, 0]
    return _hypotheses(steps, batch, blank, fixed_duration=1 if durations is None else None)


def _next_labels(
    f: Tensor,
    g: Tensor,
    joint: Joint,
    t: Tensor,
    lens: Tensor,
    rows: Tensor,
    advances: Tensor | None,
    blank: int,
) -> tuple[_Labels, Tensor]:
    """Skip blanks from frame `t` (B,) until each of `rows` has a label or no frames; the frames reached."""
    t = t.clone()
    token = torch.full_like(t, blank)
    duration = torch.zeros_like(t)
    score = torch.zeros(t.shape, device=t.device)
    while len(rows):
        token_logits, duration_logits = joint.split(joint.output(f[rows, t[rows]], g[rows]))
        token_logits = token_logits.float()
        best, chosen = token_logits.max(-1)
        is_blank = chosen == blank
        advance = is_blank.long() if advances is None else advances[duration_logits.argmax(-1)]
        token[rows] = chosen
        duration[rows] = advance
        score[rows] = best - token_logits.logsumexp(-1)
        t[rows] += torch.where(is_blank, advance.clamp(min=1), 0)
        rows = rows[is_blank & (t[rows] < lens[rows])]
    return _Labels(token=token, frame=t, duration=duration, score=score), t


def _hypotheses(
    steps: list[_Labels], batch: int, blank: int, *, fixed_duration: int | None
) -> list[Hypothesis]:
    """Gather the steps row by row, with one transfer to the host per field."""
    hyps = [Hypothesis(tokens=[], frames=[], durations=[], scores=[]) for _ in range(batch)]
    if not steps:
        return hyps
    columns = [
        torch.stack([getattr(step, name) for step in steps], 1).tolist()
        for name in ("token", "frame", "duration", "score")
    ]
    for hyp, *row in zip(hyps, *columns, strict=True):
        for token, frame, duration, score in zip(*row, strict=True):
            if token == blank:
                break  # a row without a label has come to its end
            hyp.tokens.append(token)
            hyp.frames.append(frame)
            hyp.durations.append(duration if fixed_duration is None else fixed_duration)
            hyp.scores.append(score)
    return hyps


__all__ = ["greedy_ctc", "greedy_rnnt", "greedy_tdt"]
