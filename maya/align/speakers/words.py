"""Words, segments and transcripts with speakers, by overlap in time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.tracking import diarize
from maya.audio.vad.config import VADConfig
from maya.decode.hypothesis import Hypothesis, SpeakerTurn, TextSegment, Word
from maya.decode.transcription import Transcript
from maya.decode.words import join_words


def with_speakers(
    transcript: Transcript, audio: Iterable[Tensor], rate: int, cfg: SpeakersConfig,
    vad: VADConfig | None = None,
) -> Transcript:  # fmt: skip
    """A transcript with the turns of its speakers, and names at its words and segments. audio: its blocks
    (n,) at `rate` Hz. Raises MayaError where the weights are missing."""
    turns = diarize(audio, rate, cfg, vad)
    if transcript.hypothesis is not None:
        name_hypothesis(transcript.hypothesis, turns)
    return replace(transcript, turns=turns)


def name_words(words: Sequence[Word], turns: Sequence[SpeakerTurn]) -> None:
    """Set the speaker of each word with times: who speaks most of it, or whose turn is nearest."""
    for word in words:
        if word.start is not None and word.end is not None and turns:
            word.speaker = _speaker(word.start, word.end, turns)


def speaker_of(words: Sequence[Word]) -> str | None:
    """The speaker of most time of the words, the first of them where two are equal; None without one."""
    seconds: dict[str, float] = defaultdict(float)
    for word in words:
        if word.speaker is not None:
            seconds[word.speaker] += 1e-3 + (word.end or 0.0) - (word.start or 0.0)
    return max(seconds, key=lambda name: seconds[name], default=None)


def name_hypothesis(hyp: Hypothesis, turns: Sequence[SpeakerTurn]) -> None:
    """Set the speakers of the words, and divide the segments where the speaker changes."""
    name_words(hyp.words, turns)
    segments: list[TextSegment] = []
    for segment in hyp.segments:
        name_words(segment.words, turns)
        segments += _by_speaker(segment)
    hyp.segments = segments


def _by_speaker(segment: TextSegment) -> list[TextSegment]:
    groups: list[list[Word]] = []
    for word in segment.words:
        if groups and groups[-1][-1].speaker == word.speaker:
            groups[-1].append(word)
        else:
            groups.append([word])
    if len(groups) < 2:
        segment.speaker = speaker_of(segment.words)
        return [segment]
    parts = []
    for group in groups:
        sure = [word.confidence for word in group if word.confidence is not None]
        parts.append(TextSegment(
            text=join_words([word.text for word in group]), start=group[0].start, end=group[-1].end,
            confidence=sum(sure) / len(sure) if sure else None, words=group, speaker=group[0].speaker,
        ))  # fmt: skip
    return parts


def _speaker(start: float, end: float, turns: Sequence[SpeakerTurn]) -> str:
    """Overlap is the negative distance where there is none, so the nearest turn wins then."""
    shares: dict[str, float] = defaultdict(float)
    for turn in turns:
        if turn.start < max(end, start + 1e-3) and start < turn.end:
            shares[turn.speaker] += min(end, turn.end) - max(start, turn.start)
    if shares:
        return max(shares, key=lambda name: shares[name])
    return min(turns, key=lambda turn: max(turn.start - end, start - turn.end)).speaker
