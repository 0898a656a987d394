"""The result of decoding, whichever method made it."""

from dataclasses import dataclass, field

from maya.text.tokenizer import Tokenizer


@dataclass(kw_only=True, slots=True)
class Hypothesis:
    """One recognised utterance. The four lists have one entry per token.

    tokens: token ids, never blank.
    frames: encoder frame at which each token was emitted.
    durations: number of frames of each token: as predicted by a TDT model (may be 0), the length of a CTC
        run, or 1 for RNN-T.
    scores: log probability of each token, in nats.
    frame_seconds: length of an encoder frame; 0 until `write_texts` sets it.
    Attention decoders and language models give no times: their frames and durations are empty.
    """

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    text: str = ""
    language: str | None = None
    language_probability: float | None = None  # where the model identified the language
    id: str = ""
    frame_seconds: float = 0.0

    @property
    def score(self) -> float:
        """Log probability of the tokens, in nats, on the path that was decoded; 0 without tokens."""
        return sum(self.scores)

    @property
    def times(self) -> list[tuple[float, float]]:
        """Start and end of each token in seconds from the start of the utterance."""
        return [
            (frame * self.frame_seconds, (frame + duration) * self.frame_seconds)
            for frame, duration in zip(self.frames, self.durations, strict=True)
        ]


def write_texts(hyps: list[Hypothesis], tokenizer: Tokenizer, frame_seconds: float) -> list[Hypothesis]:
    """Set the text and the frame length of each hypothesis."""
    for hyp in hyps:
        hyp.text = tokenizer.decode(hyp.tokens)
        hyp.frame_seconds = frame_seconds
    return hyps
