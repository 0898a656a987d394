"""Greedy CTC decoding: the best output of each frame, runs merged, blanks dropped.

With language models or hot words the acoustic model still decides between blank and label, and where a run of
one label begins. The label of a run is chosen at its first frame, by log probability plus the scores of the
next token. No score is added for the label of the run right before: to choose it is to go on with that run,
since CTC merges equal labels that no blank parts, and adds no token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.confidence import ConfidenceConfig, aggregate, distribution_confidence
from maya.decode.fusion import Fusion, State
from maya.decode.hypothesis import Hypothesis
from maya.heads import CTCConfig, HeadConfig
from maya.kernels import onednn

# Frames of a batch that go through the head at once. Three hours with 32 000 outputs would be 17 GB.
HEAD_FRAMES = 4096


@config
class GreedyCTCConfig(MethodConfig):
    """confidence: of each frame of a run; its `aggregation` makes one of them."""

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}
    fuses: ClassVar[bool] = True

    kind: Literal["ctc"] = "ctc"
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)


class GreedyCTC(Method, config=GreedyCTCConfig):
    """One push of `CTCDecoder`."""

    def stream(self, batch: int, langs: Tensor | None = None) -> "CTCDecoder":
        fusion = FusedRuns(self.fusion, self.start_fusion(batch, langs), batch) if self.fusion else None
        return CTCDecoder(
            self.heads[0].logits, batch, blank=self.heads[0].blank, confidence=self.cfg.confidence,
            fusion=fusion, normalize=True,
        )  # fmt: skip

    def push_each(
        self, decoders: Sequence[Any], enc: Tensor, enc_lens: Tensor, finals: Sequence[bool]
    ) -> None:
        if self.fusion is not None:
            super().push_each(decoders, enc, enc_lens, finals)
        elif enc.shape[1]:
            paths = decoders[0].rows(enc, enc_lens)
            for row, (decoder, length) in enumerate(zip(decoders, enc_lens.tolist(), strict=True)):
                decoder.append(0, [column[row] for column in paths], length)


@dataclass(kw_only=True, slots=True)
class CTCPath:
    """A label, its log probability and the confidence of each frame: (B, S) each; no confidence: None."""

    labels: Tensor
    scores: Tensor
    confidences: Tensor | None


COLUMNS = ("labels", "scores", "confidences")


class CTCDecoder:
    """Greedy CTC of B streams. A run that goes over the end of a piece stays one token.

    `head` maps frames (B, S, D) to log-probabilities (B, S, V); with `normalize` to scores before the
    softmax, which on a CPU only labels take. The host waits once a piece, at its end; with `fusion` once more
    for each HEAD_FRAMES frames.
    """

    def __init__(
        self, head: Callable[[Tensor], Tensor], batch: int, *, blank: int,
        confidence: ConfidenceConfig | None = None, fusion: "FusedRuns | None" = None,
        normalize: bool = False,
    ) -> None:  # fmt: skip
        self.head, self.blank, self.fusion, self.normalize = head, blank, fusion, normalize
        self.confidence = ConfidenceConfig() if confidence is None else confidence
        self.hyps = [Hypothesis() for _ in range(batch)]
        self._frames = [0] * batch  # pushed so far
        self._last = [blank] * batch  # the label of the last frame

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for a stream that pauses."""
        if not enc.shape[0] or not enc.shape[1]:
            return
        paths = self.rows(enc, enc_lens)
        for row, length in enumerate(enc_lens.tolist()):
            self.append(row, [column[row] for column in paths], length)

    @torch.no_grad()
    def rows(self, enc: Tensor, enc_lens: Tensor) -> list[list[Any]]:
        """Labels, scores and confidences (or None) of each row's frames (B, S, D)."""
        batch, frames = enc.shape[:2]
        size = max(1, HEAD_FRAMES // batch)
        on_cpu = enc.device.type == "cpu" and self.fusion is None
        lens = enc_lens.to(enc.device, torch.int64) if self.fusion else enc_lens
        paths: list[CTCPath] = []
        for begin, part in zip(range(0, frames, size), enc.split(size, dim=1), strict=True):
            with onednn.linear_layers(enc):
                if on_cpu:
                    paths.append(self._path_of_frames(part, lens - begin))
                else:
                    log_probs = self._log_probs(self.head(part))
                    paths.append(self._path(log_probs, lens - begin if self.fusion else lens))
        return [_rows([getattr(path, name) for path in paths], batch) for name in COLUMNS]

    def append(self, row: int, path: list[Any], length: int) -> None:
        """Add the next `length` frames of a row, the first of its path from `rows`."""
        if not length:
            return
        labels, scores, confidences = path
        collapse_ctc(
            labels[:length], scores[:length], blank=self.blank, onto=self.hyps[row],
            first_frame=self._frames[row], continued=self._last[row] == labels[0],
            confidences=confidences, aggregation=self.confidence.aggregation,
        )  # fmt: skip
        self._last[row] = labels[length - 1]
        self._frames[row] += length

    def _path(self, log_probs: Tensor, lens: Tensor) -> CTCPath:
        """The best path of frames (B, S, V), of which lens (B,) are read, at most all."""
        scores, labels = log_probs.max(-1)
        if self.fusion is not None:
            labels = self.fusion.choose(log_probs, labels, lens)
            scores = log_probs.gather(-1, labels[..., None])[..., 0]
        confidences = None
        if self.confidence:
            confidences = _label_confidences(log_probs, labels != self.blank, self.confidence)
        return CTCPath(labels=labels, scores=scores, confidences=confidences)

    def _log_probs(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-1) if self.normalize else outputs

    def _path_of_frames(self, enc: Tensor, lens: Tensor) -> CTCPath:
        """`_path` of frames (B, S, D) on a CPU: padding is left out, and only labels are scored, since the
        collapse reads no score of a blank."""
        inside = torch.arange(enc.shape[1]) < lens[:, None]
        outputs = self.head(enc[inside][None])[0]
        best = torch.from_numpy(outputs.numpy().argmax(-1))  # five times as fast as torch's
        labels = torch.full(inside.shape, self.blank)
        labels[inside] = best
        is_label, spoken = labels != self.blank, best != self.blank
        log_probs = self._log_probs(outputs[spoken])
        scores = torch.zeros(inside.shape, dtype=log_probs.dtype)
        scores[is_label] = log_probs.gather(-1, best[spoken][:, None])[:, 0]
        confidences = None
        if self.confidence:
            confidences = torch.zeros(inside.shape)
            confidences[is_label] = distribution_confidence(log_probs, self.confidence)
        return CTCPath(labels=labels, scores=scores, confidences=confidences)


def _rows(parts: list[Any], batch: int) -> Any:
    """Parts (B, s) of a column → a list for each row; None for each if there is no such column."""
    return [None] * batch if parts[0] is None else torch.cat(parts, 1).tolist()


def _label_confidences(log_probs: Tensor, is_label: Tensor, cfg: ConfidenceConfig) -> Tensor:
    """(B, S) confidences of frames (B, S, V). On a CPU those of labels only, else 0; on another device the
    host would have to wait for their number."""
    if log_probs.device.type != "cpu":
        return distribution_confidence(log_probs, cfg)
    confidences = torch.zeros(is_label.shape)
    confidences[is_label] = distribution_confidence(log_probs[is_label], cfg)
    return confidences


class FusedRuns:
    """The labels of B streams' runs, chosen with language models and hot words. state: of the rows' start."""

    def __init__(self, fusion: Fusion, state: State, batch: int) -> None:
        self.fusion, self.blank, self.state = fusion, fusion.blank, state
        self._acoustic: Tensor | None = None  # (B,): the best output of the last frame
        self._chosen: Tensor | None = None  # (B,): and what was chosen there

    def choose(self, log_probs: Tensor, labels: Tensor, lens: Tensor) -> Tensor:
        """The chosen labels (B, S). log_probs (B, S, V), labels (B, S): the best outputs, lens (B,): frames
        that are read, which may be 0 or less. The loop goes over runs, the u-th of all rows at once."""
        batch, frames = labels.shape
        rows = torch.arange(batch, device=labels.device)
        if self._acoustic is None or self._chosen is None:
            self._acoustic = self._chosen = torch.full_like(rows, self.blank)
        inside = torch.arange(frames, device=labels.device) < lens[:, None]
        before = torch.cat([self._acoustic[:, None], labels[:, :-1]], 1)
        begins = (labels != before) & (labels != self.blank) & inside
        run = begins.cumsum(1)  # of each frame; 0: that of the piece before
        runs = int(run[:, -1].max())
        first = torch.zeros(batch, runs + 1, dtype=torch.int64, device=labels.device)
        frame = torch.arange(frames, device=labels.device).expand(batch, -1)
        first.scatter_(1, torch.where(begins, run, 0), frame)
        choices = [self._chosen]
        for u in range(1, runs + 1):
            at = first[:, u]
            adjacent = torch.where(at > 0, before[rows, at], self._acoustic) != self.blank
            previous = torch.where(adjacent, choices[-1], self.blank)
            choices.append(self._choice(log_probs[rows, at], previous, run[:, -1] >= u))
        chosen = torch.where(labels == self.blank, labels, torch.stack(choices, 1).gather(1, run))
        last = (lens.clamp(max=frames) - 1).clamp(min=0)
        self._acoustic = torch.where(lens > 0, labels[rows, last], self._acoustic)
        self._chosen = torch.where(lens > 0, chosen[rows, last], self._chosen)
        return chosen

    def _choice(self, log_probs: Tensor, previous: Tensor, valid: Tensor) -> Tensor:
        """The label of a run (B,) from its first frame (B, V). previous (B,): the label of the run right
        before, blank where there is none. valid (B,): rows that have the run."""
        scores = self.fusion.scores(self.state, log_probs)
        column = previous[:, None]
        scores = scores.scatter(1, column, 0.0)
        fused = log_probs + scores
        fused.select(1, self.blank).fill_(-torch.inf)
        chosen = fused.argmax(-1)
        new = valid & (chosen != previous)
        self.state = self.fusion.advance(self.state, torch.where(new, chosen, self.blank))
        return chosen


def collapse_ctc(
    labels: Sequence[int], scores: Sequence[float], *, blank: int, onto: Hypothesis | None = None,
    first_frame: int = 0, continued: bool = False, confidences: Sequence[float] | None = None,
    aggregation: str = "min",
) -> Hypothesis:  # fmt: skip
    """The tokens of a CTC path: labels and their log-probabilities, one of each per frame.

    The frame of a token is the first of its run, its duration the length of the run, and its score the
    highest log-probability within the run. Its confidence is made of those of the run's frames, see
    `maya.decode.confidence.aggregate`. The tokens are appended to `onto`; with `continued` the first label
    goes on with the last run of `onto`.
    """
    hyp, start = onto or Hypothesis(), 0
    for label, run in groupby(labels):
        length = len(list(run))
        if label != blank:
            score = max(scores[start : start + length])
            own = confidences[start : start + length] if confidences is not None else None
            if start == 0 and continued:
                hyp.scores[-1] = max(hyp.scores[-1], score)
                if own is not None:
                    earlier = hyp.durations[-1]
                    hyp.confidences[-1] = _joined(hyp.confidences[-1], earlier, own, aggregation)
                hyp.durations[-1] += length
            else:
                hyp.tokens.append(label)
                hyp.frames.append(first_frame + start)
                hyp.durations.append(length)
                hyp.scores.append(score)
                if own is not None:
                    hyp.confidences.append(aggregate(own, aggregation))
        start += length
    return hyp


def _joined(earlier: float, frames: int, values: Sequence[float], aggregation: str) -> float:
    """The confidence of a run of which `frames` frames had `earlier`, and the others have `values`."""
    if aggregation == "mean":
        return (earlier * frames + sum(values)) / (frames + len(values))
    return aggregate([earlier, *values], aggregation)


def greedy_ctc(log_probs: Tensor, lens: Tensor, *, blank: int) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row; see `collapse_ctc`. Frames beyond
    `lens` are not read."""
    decoder = CTCDecoder(lambda x: x, len(log_probs), blank=blank)
    decoder.push(log_probs, lens)
    return decoder.hyps
