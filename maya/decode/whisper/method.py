"""Whisper's decoding: windows of 30 s, each of which begins where the last timestamp of the one before is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.hypothesis import Hypothesis
from maya.decode.whisper.alignment import (
    cut_long_words,
    fit_segment,
    timed_words,
    token_starts,
    word_limits,
)
from maya.decode.whisper.search import DecodedWindow
from maya.decode.whisper.windows import decode_windows, is_silent
from maya.encoders import Encoded, WhisperEncoderConfig
from maya.features.whisper_mel import WhisperMelConfig
from maya.heads import HeadConfig
from maya.heads.whisper import TIMESTAMP_SECONDS, WhisperDecoder, WhisperDecoderConfig
from maya.ranges import Count, Finite, NonNegFloat, PosFloat, PosInt, Seed, Share

FRAMES_PER_SECOND = 100  # of features
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages whose words no spaces divide
_SILENCE = 160  # samples after a recording: the last frame does not mirror it


@config
class WhisperConfig(MethodConfig):
    """The defaults are those of OpenAI's transcribe.

    timestamps: segments and seeking by timestamp tokens. word_times: times of words by cross-attention.
    temperatures: of the attempts after a first one whose mean log-probability is below min_logprob or whose
    text compresses more than max_compression times, best_of samples each. beam: hypotheses kept in the first
    attempt; 1 is greedy search. It ends after beam * patience results, which are compared by their
    log-probabilities over their lengths to the power of length_penalty. no_speech: the probability above
    which a window with such a log-probability is silence. previous_text: tokens of the text before a window
    that its prompt holds, unless its temperature was above reset_temperature.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (WhisperDecoderConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {}
    no_stream: ClassVar[str] = "Whisper reads windows of 30 s"

    kind: Literal["whisper"] = "whisper"
    timestamps: bool = True
    word_times: bool = True
    temperatures: tuple[Share, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    best_of: PosInt = 5
    beam: PosInt = 1
    patience: PosFloat = 1.0
    length_penalty: NonNegFloat = 1.0
    max_compression: NonNegFloat = 2.4
    min_logprob: Finite = -1.0
    no_speech: Share = 0.6
    previous_text: Count = 223
    reset_temperature: Share = 0.5
    max_tokens: PosInt = 224
    seed: Seed = 0


class Whisper(Method, config=WhisperConfig):
    """Windows in a batch as `search`, recordings of any length one after the other as `recordings`."""

    reads_audio = True
    heads: tuple[WhisperDecoder]

    def __init__(self, cfg: WhisperConfig, context: MethodContext) -> None:
        if context.tokenizer is None:  # in training: texts are not read, and a new model would fail often
            cfg = replace(cfg, timestamps=False, word_times=False, temperatures=())
        super().__init__(cfg, context)
        self.tokenizer: Any = context.tokenizer

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        """Hypotheses of windows of at most 30 s."""
        indices = self._languages(encoded, langs)
        (head,) = self.heads
        prompts = head.prompt(indices, self.cfg.timestamps)
        state = head.state(encoded)
        windows = decode_windows(head, state, prompts, self.cfg, self._text, self._generator())
        hyps = []
        for row, (window, lang) in enumerate(zip(windows, indices, strict=True)):
            track = _Track(self, lang)
            lone = replace(encoded, frames=encoded.frames[row : row + 1], lens=encoded.lens[row : row + 1],
                          host_lens=None)  # fmt: skip
            size = encoded.frames.shape[1] if int(encoded.lens[row]) else 0
            if size and not is_silent(window, self.cfg):
                track.add(lone, window, 0, 2 * size)
            hyps.append(track.hypothesis())
        return hyps

    @torch.no_grad()
    def recordings(self, audio: Tensor, lens: Tensor, langs: Tensor) -> list[Hypothesis]:
        """Hypotheses of whole recordings, audio (B, N), lens (B,) samples, langs (B,) indices or -1."""
        rows = zip(audio, lens.tolist(), langs.tolist(), strict=True)
        return [self._recording(row[:size], lang) for row, size, lang in rows]

    def _recording(self, audio: Tensor, lang: int) -> Hypothesis:
        (head,) = self.heads
        features = self.model.cfg.features
        encoder = self.model.cfg.encoder
        assert isinstance(features, WhisperMelConfig) and isinstance(encoder, WhisperEncoderConfig)
        mel = replace(features, seconds=0.0).build().to(audio.device)
        padded = F.pad(audio, (0, _SILENCE))[None]
        feats = mel(padded, torch.tensor([padded.shape[1]], device=audio.device))[0]
        total, limit = len(audio) // features.hop_samples, 2 * encoder.positions
        track, generator, seek, kept = _Track(self, lang), self._generator(), 0, 0
        while seek < total:
            size = min(limit, total - seek)
            own = feats[:, seek : seek + size]
            encoded = self.model.encoder(own, torch.tensor([size], device=audio.device))
            if track.lang < 0 and head.predicts:
                track.identify(head, encoded)
            (prompt,) = head.prompt([track.lang], self.cfg.timestamps)
            if before := track.written[kept:][-self.cfg.previous_text :] if self.cfg.previous_text else []:
                prompt = [head.cfg.tokens.previous, *before, *prompt]
            (window,) = decode_windows(head, head.state(encoded), [prompt], self.cfg, self._text, generator)
            seek = seek + size if is_silent(window, self.cfg) else track.add(encoded, window, seek, size)
            if window.temperature > self.cfg.reset_temperature:
                kept = len(track.written)
        return track.hypothesis()

    def _languages(self, encoded: Encoded, langs: Tensor | None) -> list[int]:
        """Indices into the model's languages; those that are unknown are identified."""
        (head,) = self.heads
        rows = [-1] * len(encoded.frames) if langs is None else langs.tolist()
        if head.predicts and -1 in rows:
            identified = [head.codes.index(p.label) for p in head.predict(encoded)]
            rows = [own if lang < 0 else lang for lang, own in zip(rows, identified, strict=True)]
        return rows

    def _text(self, tokens: Sequence[int]) -> str:
        end = self.heads[0].cfg.tokens.end
        kept = [t for t in tokens if t < end]
        return self.tokenizer.decode(kept) if self.tokenizer is not None else " ".join(map(str, kept))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.cfg.seed)


class _Track:
    """What was written of a recording. written: tokens with timestamps. spoken_until: seconds."""

    def __init__(self, method: Whisper, lang: int) -> None:
        self.method, self.lang = method, lang
        self.head: WhisperDecoder = method.heads[0]
        self.identified, self.probability = False, 0.0
        self.written: list[int] = []
        self.tokens: list[int] = []
        self.scores: list[float] = []
        self.spans: list[tuple[float, float]] = []
        self.spoken_until = 0.0

    def identify(self, head: WhisperDecoder, encoded: Encoded) -> None:
        """Set the language by the first window."""
        (identified,) = head.predict(encoded)
        self.lang, self.identified = head.codes.index(identified.label), True
        self.probability = identified.probability or 0.0

    def add(self, encoded: Encoded, window: DecodedWindow, seek: int, size: int) -> int:
        """Append a window that begins at frame `seek` and holds `size` frames of features, and return the
        frame at which the next one begins."""
        segments, consumed = split(window.tokens, self.head.cfg.tokens.zero, size)
        seconds, following = seek / FRAMES_PER_SECOND, seek + consumed
        kept = [(first, last, start, end) for first, last, start, end in segments
                if start != end and self.method._text(window.tokens[first:last]).strip()]  # fmt: skip
        places = [i for first, last, *_ in kept for i in range(first, last)
                  if window.tokens[i] < self.head.cfg.tokens.end]  # fmt: skip
        tokens = [window.tokens[i] for i in places]
        if self.method.cfg.word_times and tokens:
            until = self._time(encoded, window, kept, seconds, size)
            if consumed < size and until > seconds:
                following = round(until * FRAMES_PER_SECOND)
        self.tokens += tokens
        self.scores += [window.scores[i] for i in places]
        for first, last, *_ in kept:
            self.written += window.tokens[first:last]
        return following

    def _time(
        self, encoded: Encoded, window: DecodedWindow, segments: Sequence[tuple[int, int, float, float]],
        seconds: float, size: int,
    ) -> float:  # fmt: skip
        """Append the spans of the text tokens of a window, and return when its last word ends."""
        head, end = self.head, self.head.cfg.tokens.end
        texts = [[t for t in window.tokens[a:b] if t < end] for a, b, *_ in segments]
        tokens = [t for text in texts for t in text]
        starts = token_starts(head, head.state(encoded), tokens, self.lang, size // 2)
        spaced = self.lang < 0 or not head.predicts or head.codes[self.lang] not in UNSPACED
        words = timed_words(tokens, starts, self.method.tokenizer.decode_exactly, spaced)
        limits = word_limits(words)
        cut_long_words(words, limits[1])
        for word in words:
            word.start, word.end = word.start + seconds, word.end + seconds
        first = 0
        for text, (_, _, start, stop) in zip(texts, segments, strict=True):
            own = [w for w in words if first <= w.first < first + len(text)]
            spoken = [w for w in own if any(c.isalnum() for c in w.text)]
            first += len(text)
            if spoken:
                fit_segment(spoken, seconds + start, seconds + stop, self.spoken_until, limits)
                self.spoken_until = spoken[-1].end
        for word in words:
            inner = [min(max(t + seconds, word.start), word.end) for t in starts[word.first : word.last + 1]]
            inner[0], inner[-1] = word.start, word.end
            self.spans += list(zip(inner, inner[1:], strict=False))
        return self.spoken_until

    def hypothesis(self) -> Hypothesis:
        hyp = Hypothesis(tokens=self.tokens, scores=self.scores)
        if self.method.cfg.word_times and len(self.spans) == len(self.tokens):
            frame = self.method.model.frame_seconds
            hyp.spans = self.spans
            hyp.frames = [round(start / frame) for start, _ in self.spans]
            hyp.durations = [max(0, round((end - start) / frame)) for start, end in self.spans]
        if self.identified:
            hyp.language, hyp.language_probability = self.head.codes[self.lang], self.probability
        return hyp


def split(tokens: Sequence[int], zero: int, size: int) -> tuple[list[tuple[int, int, float, float]], int]:
    """The segments of a window's tokens: (first, last + 1, start, end), the times in seconds from the
    window's start, and the feature frames after which the next window begins. size: frames in the window."""
    is_time = [token >= zero for token in tokens]
    ends_single = len(tokens) >= 2 and is_time[-1] and not is_time[-2]
    cuts = [i for i in range(1, len(tokens)) if is_time[i] and is_time[i - 1]]

    def seconds(token: int) -> float:
        return (token - zero) * TIMESTAMP_SECONDS

    if not cuts:
        times = [token for token in tokens if token > zero]
        return [(0, len(tokens), 0.0, seconds(times[-1]) if times else size / FRAMES_PER_SECOND)], size
    if ends_single:
        cuts.append(len(tokens))
    segments = [
        (first, last, seconds(tokens[first]), seconds(tokens[last - 1]))
        for first, last in zip([0, *cuts], cuts, strict=False)
    ]
    return segments, size if ends_single else 2 * (tokens[cuts[-1] - 1] - zero)
