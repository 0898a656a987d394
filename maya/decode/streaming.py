"""Recognition of audio that is still coming: greedy decoders that carry over, and all the road from samples.

A decoder given the frames of an utterance in pieces finds what it would have found in one: the predictor's
state, the label that it has not read yet, the frames that the last duration skips beyond a piece's end, and
the labels on the current frame are kept, row by row (Bataev et al. 2024, arXiv 2406.06220).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maya.audio.load import as_audio
from maya.decode.hypothesis import Hypothesis
from maya.errors import MayaError
from maya.heads.transducer import AnyPredictor, Joint

if TYPE_CHECKING:
    from maya.decode.recognizer import Method, Recognizer
    from maya.models.speech_model import SpeechModel
    from maya.models.text_heads import Head


STREAMING_HEADS: tuple[Head, ...] = ("transducer", "ctc")


class StreamDecoder(Protocol):
    """Greedy decoding of B streams. `hyps` grows; frames count from each stream's start."""

    hyps: list[Hypothesis]

    def push(self, enc: Tensor, enc_lens: Tensor) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for one that pauses."""


class StreamingTransducer:
    """Label looping for TDT (`durations` given) or RNN-T (None), carried across pieces.

    Gives the tokens, frames, durations and scores of `greedy_tdt` and `greedy_rnnt`.
    """

    def __init__(
        self,
        predictor: AnyPredictor,
        joint: Joint,
        batch: int,
        *,
        durations: Sequence[int] | None,
        blank: int,
        max_symbols: int = 10,
    ) -> None:
        if joint.num_durations and durations is not None and joint.num_durations != len(durations):
            raise MayaError(
                f"{len(durations)} durations do not fit a joint network that scores {joint.num_durations}"
            )
        self.predictor, self.joint, self.blank, self.max_symbols = predictor, joint, blank, max_symbols
        device = joint.enc.weight.device
        self.advances = None if durations is None else torch.tensor(list(durations), device=device)
        self.state: Any = predictor.initial_state(batch, device)
        self.label = torch.full(
            (batch,), blank, device=device
        )  # the last one; the predictor has yet to read it
        self.frame = torch.zeros_like(self.label)  # the next one to look at, from the stream's start
        self.seen = torch.zeros_like(self.label)  # frames pushed so far
        self.last_frame = torch.full_like(self.label, -1)  # of the last label,
        self.on_frame = torch.zeros_like(self.label)  # and how many labels that frame has
        self.hyps = [Hypothesis(tokens=[], frames=[], durations=[], scores=[]) for _ in range(batch)]

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for one that pauses."""
        f = self.joint.project_encoder(enc)
        lens = enc_lens.to(f.device)
        t = self.frame - self.seen  # from this piece's start; a duration may have skipped past it
        rows = (t < lens).nonzero()[:, 0]
        while len(rows):
            pred, state = self.predictor.step(self.label, self.state)
            g = self.joint.project_predictor(pred)
            found, t = self._next_labels(f, g, t, lens, rows)
            # Who has found no label keeps the predictor as it was, to look further in the next piece.
            self.state = state.where(found, self.state)
            rows = (found & (t < lens)).nonzero()[:, 0]
        self.frame, self.seen = t + self.seen, self.seen + lens

    def _next_labels(
        self, f: Tensor, g: Tensor, t: Tensor, lens: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move `rows` on from frames t (B,) to their next label, or to the end: found (B,), t behind it."""
        t, found = t.clone(), torch.zeros_like(t, dtype=torch.bool)
        while len(rows):
            token_logits, duration_logits = self.joint.split(self.joint.output(f[rows, t[rows]], g[rows]))
            token_logits = token_logits.float()
            best, token = token_logits.max(-1)
            is_blank = token == self.blank
            table = self.advances
            advance = is_blank.long() if table is None else table[duration_logits.argmax(-1)]
            labelled = rows[~is_blank]
            if len(labelled):
                score = (best - token_logits.logsumexp(-1))[~is_blank]
                self._emit(labelled, t[labelled], token[~is_blank], advance[~is_blank], score)
                stuck = (advance[~is_blank] == 0) & (self.on_frame[labelled] >= self.max_symbols)
                t[labelled] += advance[~is_blank] + stuck
                found[labelled] = True
            blank_rows = rows[is_blank]
            t[blank_rows] += advance[is_blank].clamp(min=1)
            rows = blank_rows[t[blank_rows] < lens[blank_rows]]
        return found, t

    def _emit(self, rows: Tensor, t: Tensor, token: Tensor, duration: Tensor, score: Tensor) -> None:
        frame = t + self.seen[rows]
        self.on_frame[rows] = torch.where(frame == self.last_frame[rows], self.on_frame[rows] + 1, 1)
        self.last_frame[rows] = frame
        self.label[rows] = token
        shown = duration if self.advances is not None else torch.ones_like(duration)
        columns = zip(*(c.tolist() for c in (rows, token, frame, shown, score)), strict=True)
        for row, label, at, lasts, logp in columns:
            hyp = self.hyps[row]
            hyp.tokens.append(label)
            hyp.frames.append(at)
            hyp.durations.append(lasts)
            hyp.scores.append(logp)


class StreamingCTC:
    """Greedy CTC carried across pieces: a run that goes over a piece's end stays one token."""

    def __init__(self, head: torch.nn.Module, batch: int, *, blank: int) -> None:
        self.head, self.blank = head, blank
        self.previous = [blank] * batch
        self.seen = [0] * batch
        self.hyps = [Hypothesis(tokens=[], frames=[], durations=[], scores=[]) for _ in range(batch)]

    @torch.no_grad()
    def push(self, enc: Tensor, enc_lens: Tensor) -> None:
        """enc (B, S, D), enc_lens (B,): the next frames of each stream, 0 for one that pauses."""
        if enc.shape[1] == 0:
            return
        scores, tokens = self.head(enc).max(-1)
        for row, length in enumerate(enc_lens.tolist()):
            for token, score in zip(
                tokens[row, :length].tolist(), scores[row, :length].tolist(), strict=True
            ):
                self._read(row, token, score)

    def _read(self, row: int, token: int, score: float) -> None:
        hyp = self.hyps[row]
        if token != self.blank and token == self.previous[row]:
            hyp.durations[-1] += 1
            hyp.scores[-1] = max(hyp.scores[-1], score)
        elif token != self.blank:
            hyp.tokens.append(token)
            hyp.frames.append(self.seen[row])
            hyp.durations.append(1)
            hyp.scores.append(score)
        self.previous[row] = token
        self.seen[row] += 1


def stream_decoder(model: SpeechModel, batch: int, method: Head = "transducer") -> StreamDecoder:
    """The greedy decoder of `model` for `batch` streams. Raises MayaError where it lacks the head for it, and
    for the attention decoder, which reads whole utterances."""
    cfg = model.cfg
    if method == "attention":
        raise MayaError("an attention decoder reads whole utterances: a stream takes the transducer or CTC")
    if method == "ctc" or cfg.transducer == "none":
        if cfg.ctc_weight == 0:
            raise MayaError("this model has no CTC head; decode with its transducer")
        return StreamingCTC(model.ctc_decoder, batch, blank=model.blank)
    durations = cfg.durations if cfg.transducer == "tdt" else None
    return StreamingTransducer(model.decoder, model.joint, batch, durations=durations, blank=model.blank)


def _known_language(recognizer: Recognizer, language: str | None) -> str | None:
    """The model's own code of a language. Raises MayaError if it has none, and for "auto"."""
    if language != "auto":
        return recognizer.known_language(language)
    cfg = recognizer.model.cfg
    known = ", ".join(cfg.languages)
    instead = [f"name one of {known}" if known else "", "leave the language out"]
    if cfg.language_id_weight:
        instead.append("transcribe the whole recording with language='auto'")
    raise MayaError(
        "a stream cannot identify the language, because it decodes from the first frame on: "
        + ", or ".join(way for way in instead if way)
    )


class RecognizerStream:
    """One utterance as it is spoken: `accept` samples as they come, then `finish`.

    What `Recognizer.stream` returns. The latency is that of the model's look-ahead, its right context + 1
    encoder frames (of a Zipformer a chunk and 130 ms), plus half a window of the features. After `finish` it
    takes the next utterance. Raises MayaError for a model that cannot stream, for a method whose head it
    lacks and for a language that it does not know.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        language: str | None = None,
        *,
        method: Method = "auto",
        context: tuple[int, int] | None = None,
    ) -> None:
        languages = recognizer.model.cfg.languages
        language = _known_language(recognizer, language)
        self.recognizer, self.language, self.context = recognizer, language, context
        self.method: Head = recognizer.choose_head(method, STREAMING_HEADS).head
        index = -1 if language is None else languages.index(language)
        self._langs = torch.tensor([index], device=recognizer.device)
        featurizer = recognizer.model.preprocessor["featurizer"]
        self._features = featurizer.stream()
        self._padding = recognizer.model.cfg.features.padding_value
        self._begin()

    def accept(self, samples: np.ndarray | Tensor) -> Hypothesis:
        """The next samples, (n,) at the model's rate -> what has been recognised up to now.

        Float in [-1, 1], or integers: see `maya.audio.load.as_audio`, also for its errors.
        """
        rate = self.recognizer.model.cfg.features.sample_rate
        audio = as_audio(samples, rate).to(self.recognizer.device)
        return self._read(self._features.push(audio[None]), final=False)

    def finish(self, *, same_speaker: bool = False) -> Hypothesis:
        """The end of the audio -> the whole hypothesis.

        With `same_speaker` the next utterance begins with what a LaCT has learnt of the speaker up to now.
        Raises MayaError for it where the encoder learns nothing.
        """
        if same_speaker and not self._encoder.same_speaker:
            raise MayaError("same_speaker is for a LaCT: no other encoder learns from what it hears")
        self._features.push(
            torch.zeros(1, 0, device=self.recognizer.device)
        )  # also where nothing was accepted
        hyp = self._read(self._features.finish(), final=True, same_speaker=same_speaker)
        self._begin(same_speaker)
        return hyp

    def _begin(self, same_speaker: bool = False) -> None:
        model = self.recognizer.model
        if not same_speaker:
            self._encoder = model.encoder.stream(1, self.context, padding_value=self._padding)
        self._decoder = stream_decoder(model, 1, self.method)

    def _read(self, feats: Tensor, *, final: bool, same_speaker: bool = False) -> Hypothesis:
        model = self.recognizer.model
        with torch.inference_mode():
            encoded = self._encoder.push(feats, final, same_speaker=same_speaker)
            self._decoder.push(*model.with_language(encoded, self._langs))
        (hyp,) = self.recognizer.with_text(self._decoder.hyps)
        hyp.language = self.language
        return hyp
