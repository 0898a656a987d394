"""Confidences of the tokens that a beam search returns, from the whole distribution at the frame of each.

They are computed after the search, for the hypotheses that are returned and their alternatives alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.decode.confidence import ConfidenceConfig, aggregate, distribution_confidence, token_confidences
from maya.decode.hypothesis import Hypothesis
from maya.heads.transducer import AnyPredictor, Joint

_LOGITS_AT_ONCE = 1 << 24  # 64 MB in fp32


def all_rows(hyps: Sequence[Hypothesis]) -> list[tuple[int, Hypothesis]]:
    """Each hypothesis and each of its alternatives, with its row, without those of no token."""
    pairs = [(row, own) for row, hyp in enumerate(hyps) for own in (hyp, *hyp.alternatives)]
    return [(row, hyp) for row, hyp in pairs if hyp.tokens]


@torch.no_grad()
def set_transducer_confidences(
    hyps: Sequence[Hypothesis], enc: Tensor, predictor: AnyPredictor, joint: Joint, *, blank: int,
    cfg: ConfidenceConfig,
) -> None:  # fmt: skip
    """enc (B, S, D): what the B hypotheses were decoded from. The distribution of a token is that of its
    frame after the tokens before it, as in greedy search."""
    rows = all_rows(hyps)
    if not cfg or not rows:
        return
    padding = 1 if blank == 0 else 0  # any label
    tokens = [torch.tensor(hyp.tokens, device=enc.device) for _, hyp in rows]
    g = joint.project_predictor(predictor(pad_sequence(tokens, batch_first=True, padding_value=padding)))
    places = [(n, u, row, t) for n, (row, hyp) in enumerate(rows) for u, t in enumerate(hyp.frames)]
    n, u, row, t = torch.tensor(places, device=enc.device).unbind(1)
    values = list[float]()
    for part in torch.arange(len(places), device=enc.device).split(
        max(1, _LOGITS_AT_ONCE // joint.num_tokens)
    ):
        f = joint.project_encoder(enc[row[part], t[part]])
        logits, _ = joint.split(joint.output(f, g[n[part], u[part]]))
        values += token_confidences(logits, cfg)[1].tolist()
    given = iter(values)
    for _, hyp in rows:
        hyp.confidences = [next(given) for _ in hyp.tokens]


def set_ctc_confidences(hyps: Sequence[Hypothesis], log_probs: Tensor, cfg: ConfidenceConfig) -> None:
    """log_probs (B, S, V): on which the B hypotheses were placed. The confidences of the frames of a run make
    one, as in greedy search."""
    rows = all_rows(hyps)
    if not cfg or not rows:
        return
    runs = [
        (row, frame, span) for row, hyp in rows for frame, span in zip(hyp.frames, hyp.durations, strict=True)
    ]
    places = list(dict.fromkeys((row, frame + i) for row, frame, span in runs for i in range(span)))
    # NumPy makes an array of tuples in a third of torch's time.
    row_index, frame_index = torch.from_numpy(np.array(places)).to(log_probs.device).unbind(1)
    values = list[float]()
    for a, b in zip(
        *(x.split(max(1, _LOGITS_AT_ONCE // log_probs.shape[-1])) for x in (row_index, frame_index)),
        strict=True,
    ):
        values += distribution_confidence(log_probs[a, b], cfg).tolist()
    of_frame = dict(zip(places, values, strict=True))
    for row, hyp in rows:
        hyp.confidences = [
            aggregate([of_frame[row, frame + i] for i in range(span)], cfg.aggregation)
            for frame, span in zip(hyp.frames, hyp.durations, strict=True)
        ]
