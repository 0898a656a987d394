"""Punctuation marks and capitals of words, from their letters and from how they sound.

The label is the text as it is written, with the times of its words in seconds:
"0.32 0.51 Well, 0.62 0.8 yes." A word's letters are read in groups, so that any tokenizer's words will do. Of
its sound the head reads the mean of the encoder's frames within the word, the mean within the pause after it,
and the length of this pause.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep
from maya.ranges import BelowOne, Count, Distinct, PosFloat, PosInt
from maya.text.punctuation import case_of, split_written

_LONGEST_PAUSE = 1.0  # seconds that count
_ROUNDING = 1e-3  # frames: words of a recogniser begin exactly with a frame, whose time is rounded
_GROUPS = (1, 2, 3, 4)  # characters
_CASES = 3


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word, and when it is spoken, in seconds from the first frame."""

    text: str
    start: float
    end: float


@config
class PunctuationConfig(HeadConfig):
    """A mark after each word, or none, and the word's case in scripts that have it.

    text_dim, buckets: channels of the letters, and how many groups of letters are told apart. sound: whether
    the head reads frames. hidden, layers: channels and layers of convolutions over words; each layer sees
    `reach` words on either side. mark_weight: of words with a mark, because most have none. dropout: of
    letters and of layers. text_dropout: share of the words whose letters are hidden in training, so that the
    head also learns from the sound.
    """

    kind: Literal["punctuation"] = "punctuation"
    label: str = "written"
    marks: Annotated[tuple[str, ...], Distinct()] = (",", ".", "?", "!")
    text_dim: PosInt = 64
    buckets: PosInt = 8192
    sound: bool = True
    hidden: PosInt = 128
    layers: Count = 2
    reach: PosInt = 2
    mark_weight: PosFloat = 1.0
    dropout: BelowOne = 0.0
    text_dropout: BelowOne = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    def build(self, context: HeadContext) -> "PunctuationHead":
        if not self.label or not self.marks:
            raise MayaError("a punctuation head needs the name of a label and at least one mark")
        return PunctuationHead(self, context)


class PunctuationHead(Head):
    """Convolutions over the words of an utterance, then a linear layer for marks and one for case."""

    conditioned = False
    parts = ("loss", "case")
    cfg: PunctuationConfig

    def __init__(self, cfg: PunctuationConfig, context: HeadContext) -> None:
        super().__init__()
        self.cfg, self.seconds, self.dim = cfg, context.frame_seconds, context.dim
        self.letters = nn.EmbeddingBag(cfg.buckets, cfg.text_dim, mode="mean")
        self.norm = nn.LayerNorm(context.dim)
        self.inner = nn.Linear(cfg.text_dim + (2 * context.dim + 1 if cfg.sound else 0), cfg.hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(cfg.hidden) for _ in range(cfg.layers))
        size = 2 * cfg.reach + 1
        self.layers = nn.ModuleList(
            nn.Conv1d(cfg.hidden, cfg.hidden, size, padding=cfg.reach) for _ in range(cfg.layers)
        )
        self.dropout = nn.Dropout(cfg.dropout)
        self.marks = nn.Linear(cfg.hidden, len(cfg.marks) + 1)
        self.case = nn.Linear(cfg.hidden, _CASES)

    def forward(self, encoded: Encoded, rows: Sequence[Sequence[SpokenWord]]) -> tuple[Tensor, Tensor]:
        """Logits (B, W, marks + 1), no mark first, and (B, W, 3) of case, fp32 at least, for up to W words in
        each of B rows; zero words are allowed."""
        width = max(1, *map(len, rows))
        used = torch.zeros(len(rows), width, 1, device=encoded.frames.device)
        for row, words in enumerate(rows):
            used[row, : len(words)] = 1.0
        text = self._letters(rows, width, used)
        seen = [text, *self._sound(encoded, rows, width)] if self.cfg.sound else [text]
        x = self.inner(torch.cat(seen, -1).to(self.inner.weight.dtype))
        used = used.to(x.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            inner = layer((norm(x) * used).transpose(1, 2)).transpose(1, 2)
            x = x + self.dropout(functional.gelu(inner))
        marks, case = self.marks(self.dropout(x)), self.case(self.dropout(x))
        return (marks, case) if marks.dtype == torch.float64 else (marks.float(), case.float())

    def _letters(self, rows: Sequence[Sequence[SpokenWord]], width: int, used: Tensor) -> Tensor:
        """(B, W, text_dim)"""
        texts = [word.text for words in rows for word in words]
        groups = [letter_groups(text, self.cfg.buckets) for text in texts]
        offsets = torch.tensor([0, *map(len, groups)][:-1], dtype=torch.int64).cumsum(0)
        numbers = torch.tensor([number for group in groups for number in group], dtype=torch.int64)
        out = self.letters.weight.new_zeros(len(rows), width, self.cfg.text_dim)
        if not texts:
            return out
        words = self.dropout(self.letters(numbers.to(out.device), offsets.to(out.device)))
        if self.training and self.cfg.text_dropout:
            words = words * (torch.rand(len(words), 1, device=words.device) >= self.cfg.text_dropout)
        return out.masked_scatter(used.bool(), words)

    def _sound(
        self, encoded: Encoded, rows: Sequence[Sequence[SpokenWord]], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, W, D) mean frames within words and within the pauses after them, (B, W, 1) their lengths."""
        lens = encoded.lens_on_host.tolist()
        spans = torch.zeros(3, len(rows), width, dtype=torch.int64)  # first, after the last, after the pause
        pauses = torch.zeros(len(rows), width, 1)
        for row, (words, size) in enumerate(zip(rows, lens, strict=True)):
            ends = [word.start for word in words[1:]] + [size * self.seconds]
            for i, (word, end) in enumerate(zip(words, ends, strict=False)):
                start = min(max(0, int(word.start / self.seconds + _ROUNDING)), max(size - 1, 0))
                stop = min(max(start + 1, round(word.end / self.seconds)), size)
                pause = min(max(0.0, end - word.end), _LONGEST_PAUSE)
                spans[:, row, i] = torch.tensor([start, stop, min(stop + round(pause / self.seconds), size)])
                pauses[row, i, 0] = pause
        frames = self.norm(encoded.frames.to(self.norm.weight.dtype))
        sums = functional.pad(frames.cumsum(1), (0, 0, 1, 0))
        spans = spans.to(frames.device)
        at = [sums.gather(1, place[..., None].expand(-1, -1, self.dim)) for place in spans]
        sizes = (spans[1:] - spans[:-1]).clamp(min=1)[..., None]
        return (at[1] - at[0]) / sizes[0], (at[2] - at[1]) / sizes[1], pauses.to(frames)

    def targets(self, batch: Batch) -> tuple[list[list[SpokenWord]], Tensor, Tensor]:
        """The words of each row, (B, W) int64 marks, -1 where there is none to learn, and the same of
        case."""
        values = batch.labels.get(self.cfg.label, [None] * batch.size)
        speeds = [1.0] * batch.size if batch.speeds is None else batch.speeds
        numbers = {mark: number for number, mark in enumerate(self.cfg.marks, start=1)}
        rows: list[list[SpokenWord]] = []
        marks, cases = list[list[int]](), list[list[int]]()
        for value, speed in zip(values, speeds, strict=True):
            written = [] if value is None else written_in(value)
            bare = [split_written(word.text) for word in written]
            rows.append([
                SpokenWord(text.lower(), word.start / speed, word.end / speed)
                for word, (text, _) in zip(written, bare, strict=True)
            ])  # fmt: skip
            marks.append([numbers.get(mark, 0) for _, mark in bare])
            cases.append([-1 if (case := case_of(text)) is None else case for text, _ in bare])
        width = max(1, *map(len, rows))
        first, second = (
            torch.tensor([own + [-1] * (width - len(own)) for own in table]) for table in (marks, cases)
        )
        return rows, first, second

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        rows, marks, cases = self.targets(batch)
        logits = self(encoded, rows)
        weight = torch.full((len(self.cfg.marks) + 1,), self.cfg.mark_weight)
        weight[0] = 1.0
        return {
            name: _mean_entropy(own, target.to(own.device), None if name == "case" else weight.to(own))
            for name, own, target in zip(self.parts, logits, (marks, cases), strict=True)
        }

    def write(self, encoded: Encoded, rows: Sequence[Sequence[SpokenWord]]) -> list[list[tuple[str, int]]]:
        """The mark, "" for none, and the class of case of each word; see maya.text.punctuation."""
        plain = [[SpokenWord(split_written(w.text)[0].lower(), w.start, w.end) for w in row] for row in rows]
        marks, cases = (x.argmax(-1).tolist() for x in self(encoded, plain))
        names = ("", *self.cfg.marks)
        return [
            [(names[mark], case) for mark, case, _ in zip(*own, row, strict=False)]
            for *own, row in zip(marks, cases, rows, strict=True)
        ]


def _mean_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """(B,) the mean cross entropy of logits (B, W, C) over targets (B, W) that are not -1; 0 without any."""
    losses = functional.cross_entropy(
        logits.transpose(1, 2), targets, weight=weight, ignore_index=-1, reduction="none"
    )
    return losses.sum(1) / (targets >= 0).sum(1).clamp(min=1)


def letter_groups(text: str, buckets: int) -> list[int]:
    """The numbers of a word's groups of 1 to 4 letters and of the word itself, its ends marked (fastText's,
    Bojanowski et al. 2017)."""
    marked = f"<{text}>"
    groups = {marked, *(marked[i : i + n] for n in _GROUPS for i in range(len(marked) - n + 1))}
    return [zlib.crc32(group.encode()) % buckets for group in sorted(groups)]


def written_in(value: str) -> list[SpokenWord]:
    """The words of a label, as they are written. Raises MayaError for text that is no such label."""
    parts = value.split()
    try:
        if len(parts) % 3:
            raise ValueError
        words = [
            SpokenWord(parts[i + 2], float(parts[i]), float(parts[i + 1])) for i in range(0, len(parts), 3)
        ]
    except ValueError:
        raise MayaError(
            f"the label {value[:40]!r} is no list of words with times such as '0.32 0.51 Well, 0.62 0.8 yes.'"
        ) from None
    return words
