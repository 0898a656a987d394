"""Greedy CTC decoding: the best output of each frame, runs merged, blanks dropped."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.hypothesis import Hypothesis
from maya.heads import CTCConfig, HeadConfig

# Frames of a batch that go through the head at once. Three hours with 32 000 outputs would be 17 GB.
HEAD_FRAMES = 4096


@config
class GreedyCTCConfig(MethodConfig):
    """Greedy CTC has no options."""

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}

    kind: Literal["ctc"] = "ctc"


class GreedyCTC(Method, config=GreedyCTCConfig):
    """One push of `CTCDecoder`."""

    def stream(self, batch: int, langs: Tensor | None = None) -> "CTCDecoder":
        return CTCDecoder(self.heads[0], batch, blank=self.heads[0].blank)


class CTCDecoder:
    """Greedy CTC of B streams. A run that goes over the end of a piece stays one token.

    `head` maps frames (B, S, D) to log-probabilities (B, S, V).
    """

    def __init__(self, head: Callable[[Tensor], Tensor], batch: int, *, blank: int) -> None:
        self.head, self.blank = head, blank
        self.hyps = [Hypothesis() for _ in range(batch)]
        self._frames = [0] * batch  # pushed so far
        self._last = [blank] * batch  # the best output of the last frame

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for a stream that pauses."""
        if enc.shape[1] == 0:
            return
        parts = [
            self.head(part).max(-1) for part in enc.split(max(1, HEAD_FRAMES // max(1, len(enc))), dim=1)
        ]
        scores, labels = (torch.cat(column, 1).tolist() for column in zip(*parts, strict=True))
        for row, length in enumerate(enc_lens.tolist()):
            if length:
                row_labels, row_scores = labels[row][:length], scores[row][:length]
                continued = self._last[row] == row_labels[0]
                collapse_ctc(
                    row_labels, row_scores, blank=self.blank, onto=self.hyps[row],
                    first_frame=self._frames[row], continued=continued,
                )  # fmt: skip
                self._last[row] = row_labels[-1]
                self._frames[row] += length


def collapse_ctc(
    labels: Sequence[int], scores: Sequence[float], *, blank: int, onto: Hypothesis | None = None,
    first_frame: int = 0, continued: bool = False,
) -> Hypothesis:  # fmt: skip
    """The tokens of a CTC path: labels and their log-probabilities, one of each per frame.

    The frame of a token is the first of its run, its duration the length of the run, and its score the
    highest log-probability within the run. The tokens are appended to `onto`; with `continued` the first
    label goes on with the last run of `onto`.
    """
    hyp, start = onto or Hypothesis(), 0
    for label, run in groupby(labels):
        length = len(list(run))
        score = max(scores[start : start + length])
        if label != blank and start == 0 and continued:
            hyp.durations[-1] += length
            hyp.scores[-1] = max(hyp.scores[-1], score)
        elif label != blank:
            hyp.tokens.append(label)
            hyp.frames.append(first_frame + start)
            hyp.durations.append(length)
            hyp.scores.append(score)
        start += length
    return hyp


def greedy_ctc(log_probs: Tensor, lens: Tensor, *, blank: int) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row; see `collapse_ctc`. Frames beyond
    `lens` are not read."""
    decoder = CTCDecoder(lambda x: x, len(log_probs), blank=blank)
    decoder.push(log_probs, lens)
    return decoder.hyps
