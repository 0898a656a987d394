"""What decoding returns, whichever decoder made it."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Hypothesis:
    """One recognised utterance. The four lists have one entry per token.

    tokens: token ids, never blank. frames: encoder frame at which each was emitted. durations: frames that
      each
    lasts: what a TDT model predicted (may be 0), the length of a CTC run, 1 for RNN-T. scores: log
    probability of each token, in nats. `frame_seconds` is the length of an encoder frame, 0 as long as
    nobody has filled it in. A language model as decoder tells no frames: frames and durations are empty.
    """

    tokens: list[int]
    frames: list[int]
    durations: list[int]
    scores: list[float]
    text: str = ""
    language: str | None = None
    language_probability: float | None = None  # where the encoder identified it
    id: str = ""
    frame_seconds: float = 0.0

    @property
    def score(self) -> float:
        """Log probability of the tokens, in nats, given the path decoding took; 0 for an empty hypothesis."""
        return sum(self.scores)

    @property
    def times(self) -> list[tuple[float, float]]:
        """Start and end of each token in seconds from the start of the utterance."""
        return [
            (frame * self.frame_seconds, (frame + duration) * self.frame_seconds)
            for frame, duration in zip(self.frames, self.durations, strict=True)
        ]
