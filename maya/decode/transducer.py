"""Greedy transducer decoding of a whole batch by label looping (Bataev et al. 2024, arXiv:2406.06220).

The outer loop goes over labels: the predictor runs once per label for all rows. The inner loop skips blanks,
and evaluates the joint only for the rows that still look for their next label. Each row that goes on has
emitted exactly one label per outer step, so all predictor states advance together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.hypothesis import Hypothesis
from maya.errors import MayaError
from maya.heads import HeadConfig, TransducerConfig
from maya.heads.transducer import AnyPredictor, Joint
from maya.ranges import PosInt


@config
class GreedyTransducerConfig(MethodConfig):
    """max_symbols: labels on one frame, after which decoding moves on to the next frame."""

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (TransducerConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}

    kind: Literal["transducer"] = "transducer"
    max_symbols: PosInt = 10


class GreedyTransducer(Method, config=GreedyTransducerConfig):
    """One push of `TransducerDecoder`."""

    def stream(self, batch: int, langs: Tensor | None = None) -> "TransducerDecoder":
        (head,) = self.heads
        return TransducerDecoder(
            head.decoder, head.joint, batch, durations=head.durations, blank=head.blank,
            max_symbols=self.cfg.max_symbols,
        )  # fmt: skip


@dataclass(slots=True)
class _Labels:
    """The labels of one outer step, each (B,); rows without a label hold blank. Frames count from the start
    of the piece."""

    token: Tensor
    frame: Tensor
    duration: Tensor
    score: Tensor


class TransducerDecoder:
    """Greedy decoding of B streams with a TDT (`durations` given) or an RNN-T (None).

    A blank advances by its predicted duration, at least 1; a label by its predicted duration, which may be 0.
    In an RNN-T a blank advances by 1 and a label by 0. After `max_symbols` labels on one frame the row moves
    on by one. The last duration of an utterance may reach past its end. Put the modules in eval mode first.

    Between two pieces each row keeps the state of the predictor, the label that the predictor has yet to
    read, the frames that the last duration skips beyond the piece, and the number of labels on its frame.
    """

    def __init__(
        self, predictor: AnyPredictor, joint: Joint, batch: int, *, durations: Sequence[int] | None,
        blank: int, max_symbols: int = 10,
    ) -> None:  # fmt: skip
        if durations is not None and joint.num_durations != len(durations):
            raise MayaError(
                f"{len(durations)} durations do not fit a joint network that scores {joint.num_durations}"
            )
        if max_symbols < 1:
            raise MayaError(f"max_symbols must be at least 1, not {max_symbols}")
        self.predictor, self.joint, self.blank, self.max_symbols = predictor, joint, blank, max_symbols
        device = joint.enc.weight.device
        self.hyps = [Hypothesis() for _ in range(batch)]
        self._advances = None if durations is None else torch.tensor(list(durations), device=device)
        self._state: Any = predictor.initial_state(batch, device)
        self._label = torch.full((batch,), blank, device=device)
        self._next = torch.zeros_like(self._label)  # frame to look at, from the start of the next piece
        self._last_frame = torch.full_like(self._label, -1)  # of the last label, from there too
        self._on_frame = torch.zeros_like(self._label)  # labels on that frame
        self._pushed = torch.zeros_like(self._label)  # frames so far

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor, final: bool = False) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for a stream that pauses. After a
        `final` push nothing may follow, because no state is kept for it."""
        f = self.joint.project_encoder(enc)
        lens = enc_lens.to(self._label.device)
        steps: list[_Labels] = []
        rows = (self._next < lens).nonzero()[:, 0]
        while len(rows):
            pred, state = self.predictor.step(self._label, self._state)
            labels = self._next_labels(f, self.joint.project_predictor(pred), lens, rows)
            steps.append(labels)
            emitted = labels.token != self.blank
            self._on_frame = torch.where(labels.frame == self._last_frame, self._on_frame + 1, 1)
            if final:
                self._state, self._label, self._last_frame = state, labels.token, labels.frame
            else:  # a row without a label looks further in the next piece, with the predictor as it was
                self._state = state.where(emitted, self._state)
                self._label = torch.where(emitted, labels.token, self._label)
                self._last_frame = torch.where(emitted, labels.frame, self._last_frame)
            stuck = (labels.duration == 0) & (self._on_frame >= self.max_symbols)
            self._next = labels.frame + torch.where(emitted, labels.duration + stuck, 0)
            rows = (emitted & (self._next < lens)).nonzero()[:, 0]
        self._append(steps)
        self._next, self._last_frame = self._next - lens, self._last_frame - lens
        self._pushed = self._pushed + lens

    def _next_labels(self, f: Tensor, g: Tensor, lens: Tensor, rows: Tensor) -> _Labels:
        """Skip blanks until each of `rows` has a label or no frames. f (B, S, J), g (B, J)."""
        t = self._next.clone()
        token = torch.full_like(t, self.blank)
        duration = torch.zeros_like(t)
        score = torch.zeros(t.shape, device=t.device)
        while len(rows):
            token_logits, duration_logits = self.joint.split(self.joint.output(f[rows, t[rows]], g[rows]))
            token_logits = token_logits.float()
            best, chosen = token_logits.max(-1)
            is_blank = chosen == self.blank
            table = self._advances
            advance = is_blank.long() if table is None else table[duration_logits.argmax(-1)]
            token[rows] = chosen
            duration[rows] = advance
            score[rows] = best - token_logits.logsumexp(-1)
            t[rows] += torch.where(is_blank, advance.clamp(min=1), 0)
            rows = rows[is_blank & (t[rows] < lens[rows])]
        return _Labels(token=token, frame=t, duration=duration, score=score)

    def _append(self, steps: list[_Labels]) -> None:
        """Append the labels to `hyps`, with one transfer to the host for each field."""
        if not steps:
            return
        columns = [
            torch.stack([getattr(step, name) for step in steps], 1).tolist()
            for name in ("token", "frame", "duration", "score")
        ]
        for hyp, pushed, *row in zip(self.hyps, self._pushed.tolist(), *columns, strict=True):
            for token, frame, duration, score in zip(*row, strict=True):
                if token == self.blank:
                    break  # a row without a label has come to the end of the piece
                hyp.tokens.append(token)
                hyp.frames.append(pushed + frame)
                hyp.durations.append(duration if self._advances is not None else 1)
                hyp.scores.append(score)


def greedy_transducer(
    enc: Tensor, enc_lens: Tensor, predictor: AnyPredictor, joint: Joint, *,
    durations: Sequence[int] | None = None, blank: int, max_symbols: int = 10,
) -> list[Hypothesis]:  # fmt: skip
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row: one push of `TransducerDecoder`."""
    options: dict[str, Any] = {"durations": durations, "blank": blank, "max_symbols": max_symbols}
    decoder = TransducerDecoder(predictor, joint, len(enc), **options)
    decoder.push(enc, enc_lens, final=True)
    return decoder.hyps
