"""Decoding of Canary's models: beam search after a prompt, and the times of words from timestamp tokens."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.attention.beam import beam_search
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.confidence import ConfidenceConfig
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import CanaryDecoder, CanaryDecoderConfig, HeadConfig
from maya.heads.attention import DecoderState
from maya.heads.canary import CanaryPrompt
from maya.ranges import Count, NonNegFloat, PosInt

MARK = "▁"  # a piece that begins a word, without any letter


@config
class CanaryConfig(MethodConfig):
    """beam, n_best, length_norm, confidence: as of `AttentionBeamConfig`.
    target: the language of the text, another than that of the speech to translate; "" for the same.
    punctuation, inverse_normalisation, timestamps, diarize: see `CanaryPrompt`; these and target are the
        model's own where they are None.
    context: text before the recording, which the prompt holds, for models with prompts of the form "canary2".
    extra_tokens: a text has at most so many tokens more than the recording has frames.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CanaryDecoderConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {"beam": 1}
    no_stream: ClassVar[str] = "Canary reads whole utterances"

    kind: Literal["canary"] = "canary"
    beam: PosInt = 4
    n_best: PosInt = 1
    length_norm: NonNegFloat = 0.0
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    target: str | None = None
    punctuation: bool | None = None
    inverse_normalisation: bool | None = None
    timestamps: bool | None = None
    diarize: bool | None = None
    context: str = ""
    extra_tokens: Count = 50


class Canary(Method, config=CanaryConfig):
    """NeMo's beam search, but that tokens which are no text are not written, and that the length of a text is
    bounded by the frames of its own recording, not of the longest in the batch."""

    heads: tuple[CanaryDecoder]

    def __init__(self, cfg: CanaryConfig, context: MethodContext) -> None:
        super().__init__(cfg, context)
        names = ("target", "punctuation", "inverse_normalisation", "timestamps", "diarize")
        asked = {name: value for name in names if (value := getattr(cfg, name)) is not None}
        self.asked: CanaryPrompt = replace(self.heads[0].cfg.prompt, **asked)
        self.tokenizer: Any = context.tokenizer
        self.sets_spans = self.asked.timestamps
        ids = self.heads[0].cfg.tokens
        if self.asked.timestamps and not ids.times:
            raise MayaError("this Canary has no tokens of timestamps; leave timestamps=true out")
        times = range(ids.zero, ids.zero + ids.times) if self.asked.timestamps else ()
        self.never = [i for i in self.heads[0].never if i not in times]

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        indices, identified = self._languages(encoded, langs)
        prompts = [head.prompt([lang], self.asked, self._context(lang))[0] for lang in indices]
        hyps: list[Hypothesis] = [Hypothesis() for _ in prompts]
        # Prompts of equal length are searched at once; those with a text before may differ in length.
        for size in {*map(len, prompts)}:
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) == size]
            for row, hyp in zip(rows, self._search(encoded, rows, [prompts[i] for i in rows]), strict=True):
                hyps[row] = hyp
        for row, (lang, probability) in identified.items():
            hyps[row].language, hyps[row].language_probability = lang, probability
        return hyps

    def _search(
        self, encoded: Encoded, rows: Sequence[int], prompts: Sequence[Sequence[int]]
    ) -> list[Hypothesis]:
        (head,) = self.heads
        device = encoded.frames.device
        chosen, read = (torch.tensor(values, device=device) for values in (rows, prompts))
        frames, lens = encoded.frames[chosen], encoded.lens.to(device)[chosen]
        state = head.start(head.memory(frames, lens))
        if read.shape[1] > 1:
            _, state = head.read(read[:, :-1], state)
        state = _repeated(state, self.cfg.beam)
        room = head.cfg.positions - read.shape[1]
        limit = (lens + self.cfg.extra_tokens).clamp(max=room).masked_fill(lens == 0, 0)
        hyps = beam_search(head, state, read[:, -1], limit, self.cfg, never=self.never)
        if self.asked.timestamps:
            for hyp in hyps:
                for own in (hyp, *hyp.alternatives):
                    pieces = self.tokenizer.pieces(own.tokens) if self.tokenizer else [""] * len(own.tokens)
                    timed(own, head, self.model.frame_seconds, pieces)
        return hyps

    def _languages(
        self, encoded: Encoded, langs: Tensor | None
    ) -> tuple[list[int], dict[int, tuple[str, float | None]]]:
        """Indices into the model's languages, and the language and probability of the rows where they were
        not named but identified."""
        (head,) = self.heads
        rows = [-1] * len(encoded.frames) if langs is None else langs.tolist()
        if -1 not in rows:
            return rows, {}
        predictions = head.predict(encoded)
        identified = {i: (p.label, p.probability) for i, p in enumerate(predictions) if rows[i] < 0}
        return [head.codes.index(p.label) if lang < 0 else lang
                for lang, p in zip(rows, predictions, strict=True)], identified  # fmt: skip

    def _context(self, lang: int) -> list[int]:
        """The tokens of the text before, in the language of the text."""
        if not self.cfg.context or self.tokenizer is None:
            return []
        target = self.asked.target or self.heads[0].codes[lang]
        ids: list[int] = self.tokenizer.encode(self.cfg.context, target)
        return ids


def _repeated(state: DecoderState, beam: int) -> DecoderState:
    """The state of one sequence per utterance, for `beam` of them."""
    rows = torch.arange(len(state.memory.seen), device=state.memory.seen.device)
    return state.select(rows.repeat_interleave(beam))


def timed(hyp: Hypothesis, head: CanaryDecoder, frame_seconds: float, pieces: Sequence[str]) -> None:
    """Take the tokens of timestamps out of a hypothesis, and set frames, durations and spans from them.

    A word stands between the token of its first frame and that of the frame after it; its tokens share this
    time equally, but for a lone mark of a word's beginning. pieces: of the tokens. Nothing is set where text
    stands outside such a pair.
    """
    zero, end = head.cfg.tokens.zero, head.cfg.tokens.zero + head.cfg.tokens.times
    is_time = [zero <= token < end for token in hyp.tokens]
    if not any(is_time):
        return
    times: list[tuple[float, float]] = []
    start: int | None = None
    run: list[int] = []  # the shares of the tokens since the last time
    is_paired = True  # all text stands between two times
    for token, piece, is_frame in zip(hyp.tokens, pieces, is_time, strict=True):
        if not is_frame:
            run.append(int(piece != MARK))
            is_paired &= start is not None
            continue
        if run and start is not None:
            share = max(0, token - zero - start) / max(1, sum(run))
            ends = [start + share * count for count in itertools.accumulate(run)]
            times += zip([float(start), *ends], ends, strict=False)
        start, run = (None, []) if run else (token - zero, [])
    keep = [i for i, is_frame in enumerate(is_time) if not is_frame]
    hyp.tokens, hyp.scores = [hyp.tokens[i] for i in keep], [hyp.scores[i] for i in keep]
    hyp.confidences = [hyp.confidences[i] for i in keep] if hyp.confidences else []
    if is_paired and len(times) == len(hyp.tokens):
        hyp.frames = [int(first) for first, _ in times]
        hyp.durations = [max(0, round(last) - int(first)) for first, last in times]
        hyp.spans = [(first * frame_seconds, last * frame_seconds) for first, last in times]
