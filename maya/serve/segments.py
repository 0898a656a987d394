"""What the heads of a model say of a segment of live speech: labels, tracks, whether its text is made up."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.predictions import predicting_heads
from maya.decode.punctuation import LivePunctuation, Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.stream_rows import StreamRow
from maya.encoders import Encoded
from maya.heads import HeadTrack
from maya.score.hallucination import HallucinationCheck
from maya.serve.config import SessionConfig
from maya.serve.votes import Voters, combined

_BEFORE_SECONDS = 0.5  # of frames that are kept before the first token
_DIGITS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFacts:
    """labels: by name {"label", "probability"}. tracks: by name {"start", "seconds", "columns", "values",
    "events"}; times are seconds from the session's start. check: the fields of a TextVerdict."""

    labels: dict[str, Any] = field(default_factory=dict)
    tracks: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] | None = None


class SegmentHeads:
    """The trained heads of a model that can read a stream's frames. Heads of hidden states are left out,
    because streams have none."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer, self.model = recognizer, recognizer.model
        model = self.model
        self.punctuation: Punctuation | None = None
        self.voters: dict[tuple[str, ...], Voters] = {}
        self.labels = {name: h for name, h in predicting_heads(model).items() if not h.hidden}
        self.tracks = {
            head.tracks: head
            for name, head in model.named_heads().items()
            if head.tracks and not head.hidden and name not in model.untrained
        }
        self.check = HallucinationCheck(model)
        self.before = max(1, round(_BEFORE_SECONDS / model.frame_seconds))

    def prepare(self, cfg: SessionConfig) -> None:
        """Raises MayaError where the model cannot do what a session asks for."""
        if cfg.punctuate and self.punctuation is None:
            self.punctuation = Punctuation(self.recognizer)
        if cfg.rover and cfg.rover not in self.voters:
            self.voters[cfg.rover] = Voters(self.recognizer, cfg.rover)

    def trim(self, row: StreamRow) -> None:
        """Forget frames before the segment, which has no token yet."""
        if not row.hypothesis.tokens:
            row.keep_from(row.frames - self.before)

    @torch.inference_mode()
    def read(
        self, row: StreamRow, hyp: Hypothesis, cfg: SessionConfig, *, first_second: float, seconds: float,
        speech: float | None = None, end: int | None = None,
    ) -> SegmentFacts:  # fmt: skip
        """Of the frames that the row has kept, up to the row's frame `end`. hyp: with text and words. cfg:
        was given to `prepare`. first_second: of the row's frame 0. seconds: of the segment. speech: the share
        of it with speech."""
        encoded, start = self._kept(row, first_second, end)
        if not cfg.heads or not encoded.frames.shape[1]:
            return SegmentFacts()
        return self._facts(hyp, encoded, row.langs, start=start, seconds=seconds, speech=speech)

    @torch.inference_mode()
    def vote(
        self, row: StreamRow, hyp: Hypothesis, cfg: SessionConfig, others: list[Hypothesis], *,
        first_second: float, end: int | None,
    ) -> None:  # fmt: skip
        """Change the words of a hypothesis to those that win the vote of the methods of `cfg.rover` and of
        `others`. Times as in `read`."""
        encoded, start = self._kept(row, first_second, end)
        own = list[Hypothesis]()
        if cfg.rover and encoded.frames.shape[1]:
            own = self.voters[cfg.rover].hypotheses(encoded, row.langs, start)
        if not own and not others:
            return
        before = hyp.text
        combined([hyp, *own, *others], cfg.vote)
        if hyp.text != before:  # the check reads the tokens
            hyp.tokens = self.recognizer.tokenizer.encode(hyp.text, hyp.language)

    def written(
        self, row: StreamRow, words: list[Word], live: LivePunctuation, first_second: float,
        end: int | None = None,
    ) -> list[Word]:  # fmt: skip
        """Words of the open segment in their written form. Times as in `read`."""
        encoded, start = self._kept(row, first_second, end)
        return live.write(words, encoded, start) if encoded.frames.shape[1] else words

    def _kept(self, row: StreamRow, first_second: float, end: int | None) -> tuple[Encoded, float]:
        """The frames that the row has kept, and when they begin."""
        frames = row.kept_frames(end)
        encoded = Encoded(frames, torch.tensor([frames.shape[1]], device=frames.device))
        return encoded, first_second + row.kept_from * self.model.frame_seconds

    def _facts(
        self, hyp: Hypothesis, encoded: Encoded, langs: torch.Tensor, *, start: float, seconds: float,
        speech: float | None,
    ) -> SegmentFacts:  # fmt: skip
        conditioned = self.model.with_language(encoded, langs)
        labels = {}
        for name, head in self.labels.items():
            said = head.predict(conditioned if head.conditioned else encoded)[0]
            sure = said.probability
            labels[name] = {
                "label": said.label,
                "probability": None if sure is None else round(sure, _DIGITS),
            }
        tracks = {name: _shown(head.track(encoded)[0], start) for name, head in self.tracks.items()}
        verdict = self.check(hyp, encoded, speech=speech, seconds=seconds, langs=langs)
        return SegmentFacts(labels=labels, tracks=tracks, check=_rounded(dataclasses.asdict(verdict)))


def _shown(track: HeadTrack, start: float) -> dict[str, Any]:
    events = [
        {"label": e.label, "start": start + e.start, "end": start + e.end, "probability": e.probability}
        for e in track.events
    ]
    values = [[round(v, _DIGITS) for v in row] for row in track.values.tolist()]
    shown = {"start": start, "seconds": track.seconds, "columns": track.columns, "values": values}
    return shown | {"events": [_rounded(event) for event in events]}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, _DIGITS) if isinstance(v, float) else v for k, v in values.items()}
