"""`align`: a recording and its text -> the same text with the time of each word."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.align.anchors import Leaf, leaves
from maya.align.ctc import WILDCARD, SkipCosts, SkipGraph, TokenSpans, align_graph
from maya.align.text import SpelledText, spell
from maya.align.transducer import align_transducer
from maya.align.windows import (
    FrameRows,
    LongRecording,
    Windows,
    encode_windows,
    open_recording,
    recording_levels,
)
from maya.decode.hypothesis import Hypothesis, TextSegment, Word
from maya.decode.recognizer import Recognizer
from maya.decode.word_edges import Anchor, Levels, letters_in, word_edges
from maya.decode.words import aggregate, fill_times, join_words, segments_of, token_spans
from maya.errors import MayaError

_LEAF_SECONDS = 100.0
_UNSPOKEN_SCORE = -4.0  # mean log probability of the tokens of a word that a transducer does not expect


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignOptions:
    """head: the CTC or transducer head that aligns; "" takes CTC where it was trained. costs: of words that
    are not spoken and of speech that is not in the text; None: the text is what was spoken, word by word.
    leaf: seconds of audio that are searched as a whole, where the text can be cut."""

    head: str = ""
    costs: SkipCosts | None = field(default_factory=SkipCosts)
    windows: Windows = field(default_factory=Windows)
    leaf_seconds: float = _LEAF_SECONDS


def align(
    recognizer: Recognizer, audio: str | Path | Tensor, text: str, language: str | None = None, *,
    options: AlignOptions | None = None,
) -> Hypothesis:  # fmt: skip
    """The words of `text` with their times and confidences in a recording, a file or (N,) samples at the
    model's rate, as a hypothesis; its segments are the lines of the text, or its sentences if it is one line.

    Words that were not spoken have no times. Words without letters that the vocabulary has are placed between
    their neighbours. The recording may be hours long. Raises MayaError for an empty text, for audio that
    cannot be read, for a model without a trained CTC or transducer head, for a language that the model does
    not know, and, without `options.costs`, for a text that is too long for the audio.
    """
    options = options or AlignOptions()
    language = recognizer.model_language(language)
    if language == "auto":
        raise MayaError("name the language of the text: alignment does not identify it")
    name = choose_head(recognizer, options.head)
    spelled = spell(text, recognizer.tokenizer, language)
    recording = open_recording(audio, recognizer.sample_rate)
    seconds = recording.samples / recognizer.sample_rate
    find = _ALIGNERS[_kind(recognizer, name)]
    spans = find(recognizer, name, recording, spelled, language, options)
    levels = recording_levels(recording, recognizer.sample_rate)
    words = words_from_spans(spelled, spans, recognizer.model.frame_seconds, seconds, levels)
    return Hypothesis(
        text=join_words(spelled.words), words=words, segments=_lines(words, spelled), language=language,
        id=recording.name, frame_seconds=recognizer.model.frame_seconds,
    )  # fmt: skip


def choose_head(recognizer: Recognizer, name: str = "") -> str:
    """The head that aligns: `name`, or the first trained CTC head, or else the first transducer. Raises
    MayaError where the model has none, and for a head of another kind."""
    trained = recognizer.trained_heads()
    if name:
        if name not in recognizer.model.cfg.heads or _kind(recognizer, name) not in _ALIGNERS:
            raise MayaError(f"only CTC and transducer heads can align, and {name!r} is none in this model")
        trained.require(name, f"aligning with {name}")
        return name
    heads = {_kind(recognizer, head): head for head in reversed(trained.trained)}
    for kind in _ALIGNERS:
        if kind in heads:
            return heads[kind]
    raise MayaError("this model cannot align: it has no trained CTC or transducer head")


def _kind(recognizer: Recognizer, head: str) -> str:
    return str(getattr(recognizer.model.cfg.heads[head], "kind", ""))


def words_from_spans(
    spelled: SpelledText, spans: TokenSpans, frame_seconds: float, seconds: float,
    levels: Levels | None = None,
) -> list[Word]:  # fmt: skip
    """The words of a text from the spans of its tokens, with edges measured on the sound if its levels are
    given.

    Words without tokens are placed between neighbours that are spoken. Words that consist of wildcards alone
    fit any speech, so they count as spoken only beside a word of their line that is.
    """
    words = [Word(text=text) for text in spelled.words]
    bounds, owners = [*spelled.first.tolist(), len(spelled.tokens)], spelled.owners_of_words.tolist()
    placed: dict[int, tuple[int, int]] = {}  # frames of the first and the last token
    evidence: list[bool | None] = [None] * len(words)  # whether it is spoken, as far as its letters tell
    for owner, begin, end in zip(owners, bounds, bounds[1:], strict=False):
        tokens = [i for i in range(begin, end) if spans.start[i] >= 0]
        if (spelled.tokens[begin:end] != WILDCARD).any():
            evidence[owner] = bool(tokens)
        if tokens:
            word = words[owner]
            word.start = min(int(spans.start[tokens[0]]) * frame_seconds, seconds)
            word.end = min(int(spans.end[tokens[-1]]) * frame_seconds, seconds)
            word.confidence = aggregate([float(spans.confidence[i]) for i in tokens], "min")
            placed[owner] = (int(spans.start[tokens[0]]), int(spans.start[tokens[-1]]))
    spoken = _spoken(evidence, spelled.lines)
    for word, is_spoken in zip(words, spoken, strict=True):
        if not is_spoken:
            word.start = word.end = word.confidence = None
    if levels is not None:
        _measure(words, {n: at for n, at in placed.items() if spoken[n]}, frame_seconds, levels, seconds)
    for is_spoken, group in itertools.groupby(range(len(words)), lambda i: spoken[i]):
        run = [words[i] for i in group]
        if is_spoken and any(word.start is not None for word in run):
            fill_times(run, total=seconds)
    return words


def _measure(
    words: Sequence[Word], placed: Mapping[int, tuple[int, int]], frame_seconds: float, levels: Levels,
    seconds: float,
) -> None:  # fmt: skip
    """Set the edges of words by the sound. placed: frames of first and last tokens, by number of word."""
    anchors = [
        Anchor((first + 0.5) * frame_seconds, (last + 0.5) * frame_seconds, letters_in(words[n].text))
        for n, (first, last) in placed.items()
    ]
    for n, edge in zip(placed, word_edges(anchors, levels), strict=True):
        if edge is not None:
            words[n].start, words[n].end = min(edge[0], seconds), min(edge[1], seconds)


def _spoken(evidence: list[bool | None], lines: list[int]) -> list[bool]:
    """For each word whether it is spoken. One without evidence is if a word beside it, the next on either
    side with evidence, is; or if its line has none."""
    before, after = list(evidence), list(evidence)
    for order, near in ((range(len(evidence)), before), (range(len(evidence) - 1, -1, -1), after)):
        last: tuple[int, bool | None] = (-1, None)
        for i in order:
            if near[i] is None and last[0] == lines[i]:
                near[i] = last[1]
            last = (lines[i], near[i])
    return [
        value if value is not None else (a, b) == (None, None) or bool(a) or bool(b)
        for value, a, b in zip(evidence, before, after, strict=True)
    ]


def _lines(words: list[Word], spelled: SpelledText) -> list[TextSegment]:
    """A segment for each line of the text, or for each sentence of a single line."""
    numbers = sorted(set(spelled.lines))
    if len(numbers) == 1:
        return segments_of(words)
    segments = []
    for number in numbers:
        line = [word for word, n in zip(words, spelled.lines, strict=True) if n == number]
        segments += segments_of(line, gap_seconds=math.inf, sentences=False)
    return segments


def _rows_of(
    recognizer: Recognizer, name: str, recording: LongRecording, language: str | None, options: AlignOptions,
    outputs: Callable[[Tensor], Tensor],
) -> tuple[FrameRows, Hypothesis]:  # fmt: skip
    """What `outputs` makes of the encoder's frames (1, n, D), for all frames; and the greedy hypothesis."""
    head: Any = recognizer.model.head(name)
    total = int(recognizer.model.cfg.clock.frames(recording.samples))
    rows, decoder = None, recognizer.make_method(recognizer.choose_method(name)).stream(1)
    for part in encode_windows(
        recognizer, recording, language, conditioned=head.conditioned, windows=options.windows
    ):
        with torch.inference_mode():
            of_frames = outputs(part[None])
            decoder.push(part[None], torch.tensor([len(part)], device=part.device))
        rows = rows or FrameRows(total, of_frames.shape[-1])
        rows.append(of_frames[0])
    assert rows is not None
    return rows, decoder.hyps[0]


def _by_ctc(
    recognizer: Recognizer, name: str, recording: LongRecording, spelled: SpelledText, language: str | None,
    options: AlignOptions,
) -> TokenSpans:  # fmt: skip
    head: Any = recognizer.model.head(name)
    total = int(recognizer.model.cfg.clock.frames(recording.samples))
    rows, decoded = _rows_of(recognizer, name, recording, language, options, head)
    most = round(options.leaf_seconds / recognizer.model.frame_seconds)
    return align_rows(rows, total, spelled, decoded, blank=head.blank, costs=options.costs, most=most)


def align_rows(
    rows: Callable[[int, int], Any], frames: int, spelled: SpelledText, decoded: Hypothesis, *, blank: int,
    costs: SkipCosts | None, most: int,
) -> TokenSpans:  # fmt: skip
    """The spans of a text's tokens in CTC log probabilities `rows(begin, end)` (n, V) of any length, cut
    where greedy decoding, `decoded`, agrees with the text, into about `most` frames."""

    def leaf_spans(leaf: Leaf) -> TokenSpans:
        first = spelled.first[(spelled.first >= leaf.begin) & (spelled.first < leaf.end)] - leaf.begin
        graph = SkipGraph(tokens=spelled.tokens[leaf.begin : leaf.end], first=first, blank=blank, costs=costs)
        return align_graph(
            lambda begin, end: rows(leaf.start + begin, leaf.start + end), leaf.stop - leaf.start, graph
        )

    return _joined(spelled, decoded, frames, most, leaf_spans)


def _joined(
    spelled: SpelledText,
    decoded: Hypothesis,
    frames: int,
    most: int,
    leaf_spans: Callable[[Leaf], TokenSpans],
) -> TokenSpans:
    """The spans of all leaves in one."""
    parts: list[TokenSpans] = []
    for leaf in leaves(spelled.tokens.tolist(), spelled.first.tolist(), decoded, frames, most_frames=most):
        spans = leaf_spans(leaf)
        shift = np.where(spans.start >= 0, leaf.start, 0)
        parts.append(replace(spans, start=spans.start + shift, end=spans.end + shift))
    return TokenSpans(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end", "confidence")),
        score=sum(part.score for part in parts),
    )  # type: ignore[misc]


def _by_transducer(
    recognizer: Recognizer, name: str, recording: LongRecording, spelled: SpelledText, language: str | None,
    options: AlignOptions,
) -> TokenSpans:  # fmt: skip
    """As `_by_ctc`. Tokens that the vocabulary lacks are left out, and words of which the transducer expects
    no token are taken as not spoken, once: the others are aligned again without them."""
    head: Any = recognizer.model.head(name)
    total = int(recognizer.model.cfg.clock.frames(recording.samples))
    rows, decoded = _rows_of(recognizer, name, recording, language, options, lambda frames: frames)

    def leaf_spans(leaf: Leaf) -> TokenSpans:
        enc = torch.from_numpy(np.array(rows(leaf.start, leaf.stop)))[None].to(recognizer.device)
        tokens, owners = spelled.tokens[leaf.begin : leaf.end], spelled.owners[leaf.begin : leaf.end]
        spans = _lattice_spans(enc, tokens, tokens != WILDCARD, head)
        if options.costs is None:
            return spans
        scores = np.log(np.maximum(spans.confidence, 1e-30))
        spoken = np.array([scores[owners == owner].mean() > _UNSPOKEN_SCORE for owner in owners], bool)
        return _lattice_spans(enc, tokens, (tokens != WILDCARD) & spoken, head)

    most = round(options.leaf_seconds / recognizer.model.frame_seconds)
    return _joined(spelled, decoded, total, most, leaf_spans)


def _lattice_spans(enc: Tensor, tokens: Any, kept: Any, head: Any) -> TokenSpans:
    """The spans of those of tokens (U,) that are `kept` (U,) on the best path through enc (1, S, D)."""
    start, end, confidence = (np.full(len(tokens), -1), np.full(len(tokens), -1), np.zeros(len(tokens)))
    lens = torch.tensor([enc.shape[1]], device=enc.device)
    places, score = np.flatnonzero(kept), 0.0
    if len(places) and enc.shape[1]:
        with torch.inference_mode():
            (hyp,) = align_transducer(
                enc, lens, [tokens[places].tolist()], head.decoder, head.joint, blank=head.blank,
                durations=head.durations,
            )  # fmt: skip
        for place, frame, span, log_prob in zip(
            places, hyp.frames, token_spans(hyp), hyp.scores, strict=True
        ):
            start[place], end[place] = frame, max(frame + 1, math.ceil(span[1]))
            confidence[place] = math.exp(log_prob)
        score = hyp.score
    return TokenSpans(start, end, confidence, score)


_ALIGNERS = {"ctc": _by_ctc, "transducer": _by_transducer}
"""How a text is found, by the kind of the head; the first that a model has is the default."""
