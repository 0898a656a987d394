"""Streams that begin, pause and end at any time, computed together: rows of one `StreamRows`.

`RecognizerStream` is one stream by itself; a server has many. Rows that have audio at the same moment go
through the encoder and the decoder as one batch, and none of them sees the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.decode.base import Method, StreamDecoder
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.buffered import (
    AudioWindow,
    BufferConfig,
    WindowBuffer,
    encode_windows,
    trained_buffer,
)
from maya.encoders import Encoded, EncoderStream
from maya.errors import MayaError
from maya.features.base import FeatureStream
from maya.models.speech_model import SpeechModel


@dataclass(kw_only=True, slots=True)
class StreamRow:
    """One stream. first_frame: encoder frames before the decoder's first; frames: encoder frames so far.
    kept: the frames (1, S, D) from number `kept_from` on, without any language; None where none are kept.

    `hypothesis` has no text; its frames count from `first_frame`.
    """

    langs: Tensor
    decoder: StreamDecoder
    features: FeatureStream | None = None
    encoder: EncoderStream | None = None
    buffer: WindowBuffer | None = None
    first_frame: int = 0
    frames: int = 0
    kept: list[Tensor] | None = None
    kept_from: int = 0

    def kept_frames(self, end: int | None = None) -> Tensor:
        """(1, S, D) the frames that are kept, up to number `end`."""
        if not self.kept:
            return torch.zeros(1, 0, 0)
        frames = self.kept[0] if len(self.kept) == 1 else torch.cat(self.kept, 1)
        self.kept[:] = [frames]  # joined once
        return frames if end is None else frames[:, : max(0, end - self.kept_from)]

    def keep_from(self, frame: int) -> None:
        """Forget kept frames before this one."""
        if self.kept and frame > self.kept_from:
            self.kept[:] = [self.kept_frames()[:, frame - self.kept_from :].clone()]
            self.kept_from = frame

    @property
    def hypothesis(self) -> Hypothesis:
        """What was recognised since the row, or its text, began."""
        (own,) = self.decoder.hyps
        return own


class StreamRows:
    """Makes rows and moves them on. One thread uses it at a time.

    context, buffer: as in `Recognizer.stream`; `buffer` is for encoders that cannot stream, and a model that
    was trained for chunks has its own. Raises MayaError
    for a model or a method that cannot stream.
    """

    def __init__(
        self, method: Method, *, context: tuple[int, int] | None = None, buffer: BufferConfig | None = None
    ) -> None:
        if any(head.hidden for head in method.heads):
            raise MayaError("a stream gives no hidden states, which a head of this method reads")
        self.method, self.model, self.context = method, method.model, context
        self.buffer = buffer or (trained_buffer(method.model) if context is None else None)
        self.device = next(self.model.parameters()).device
        self.open(next(iter(self.model.cfg.languages), None))  # refuses at once what cannot stream

    def open(
        self, language: str | None = None, *, after: StreamRow | None = None, keep: bool = False
    ) -> StreamRow:
        """A row before its first sample. language: one that the model knows, or None. after: a row that was
        pushed to its end with `same_speaker`, whose speaker goes on. keep: whether it keeps its frames."""
        langs = language_index(self.model, language)
        row = StreamRow(langs=langs, decoder=self.method.stream(1, langs), kept=[] if keep else None)
        if self.buffer is not None:
            row.buffer = WindowBuffer(self.buffer, self.model)
        else:
            row.features = self.model.featurizer.stream()
            padding = self.model.cfg.features.padding_value
            if after is None:
                with torch.no_grad():
                    row.encoder = self.model.encoder.stream(1, self.context, padding_value=padding)
            else:
                row.encoder = after.encoder
        return row

    def begin_text(self, row: StreamRow) -> None:
        """Begin a new hypothesis at the row's next frame. The encoder keeps what it has heard."""
        row.decoder = self.method.stream(1, row.langs)
        row.first_frame = row.kept_from = row.frames
        if row.kept is not None:
            row.kept = []

    @torch.inference_mode()
    def push(
        self, rows: Sequence[StreamRow], audio: Sequence[Tensor], finals: Sequence[bool], *,
        same_speaker: bool = False,
    ) -> None:  # fmt: skip
        """The next samples (n,) of each row, float32 at the model's rate on the CPU, n >= 0. A row whose
        audio is `final` takes nothing more; with `same_speaker` its encoder keeps what it has learnt."""
        if self.buffer is not None:
            frames = self._encode_windows(rows, audio, finals)
        else:
            frames = self._encode_stream(rows, audio, finals, same_speaker)
        lens = torch.tensor([own.shape[1] for own in frames])
        for row, own, size in zip(rows, frames, lens.tolist(), strict=True):
            row.frames += size
            if row.kept is not None and size:
                row.kept.append(own)
        if lens.any():
            batch = pad_sequence([own[0] for own in frames], batch_first=True)
            encoded = self.method.conditioned(Encoded(batch, lens), torch.cat([row.langs for row in rows]))
            self.method.push_each([row.decoder for row in rows], encoded.frames, lens, finals)

    def _encode_stream(
        self, rows: Sequence[StreamRow], audio: Sequence[Tensor], finals: Sequence[bool], same_speaker: bool
    ) -> list[Tensor]:
        feats, streams = [], []
        for row, samples, final in zip(rows, audio, finals, strict=True):
            assert row.features is not None and row.encoder is not None
            own = row.features.push(samples[None].to(self.device))
            feats.append(torch.cat([own, row.features.finish()], 1) if final else own)
            streams.append(row.encoder)
        return streams[0].push_each(streams, feats, finals, same_speaker=same_speaker)

    def _encode_windows(
        self, rows: Sequence[StreamRow], audio: Sequence[Tensor], finals: Sequence[bool]
    ) -> list[Tensor]:
        windows: list[AudioWindow] = []
        counts = []
        for row, samples, final in zip(rows, audio, finals, strict=True):
            assert row.buffer is not None
            own = row.buffer.push(samples)
            if final:
                own.append(row.buffer.finish())
            windows += own
            counts.append(len(own))
        chunks = iter(encode_windows(self.model, windows))
        nothing = torch.zeros(0, self.model.cfg.encoder.d_model, device=self.device)
        return [torch.cat([nothing, *(next(chunks) for _ in range(n))])[None] for n in counts]


def language_index(model: SpeechModel, language: str | None) -> Tensor:
    """(1,) the index of a model's language, -1 for None."""
    index = -1 if language is None else model.cfg.languages.index(language)
    return torch.tensor([index], device=next(model.parameters()).device)
