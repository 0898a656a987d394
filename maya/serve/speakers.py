"""Speakers of live sessions: windows of all sessions are embedded as one batch."""

from collections.abc import Sequence

from torch import Tensor

from maya.align.speakers.encoder import load_encoder
from maya.align.speakers.tracking import SpeakerStream
from maya.align.speakers.words import name_words, speaker_of
from maya.audio.vad.detector import SpeechDetector
from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.serve.config import SessionConfig

_BEFORE_SECONDS = 5.0  # the first word of a segment may take the speaker of a turn that long before it


def open_speakers(cfg: SessionConfig, sample_rate: int) -> SpeakerStream | None:
    """The speakers of a new session, if it asks for them. Raises MayaError where it has no voice detector."""
    if cfg.speakers is None:
        return None
    if cfg.vad is None:
        raise MayaError("speakers need the voice detector: leave out --vad off")
    return SpeakerStream(cfg.speakers, sample_rate, load_encoder(cfg.speakers.weights).rate)


def push_speakers(
    sessions: Sequence[tuple[SpeakerStream | None, SpeechDetector | None, Tensor, bool]],
) -> None:
    """The blocks of sessions: (its speakers, its detector after the block, the samples, whether all speech
    in it must have a speaker now)."""
    pushed = []
    for speakers, detector, samples, final in sessions:
        if speakers is not None and detector is not None:
            pushed.append((speakers, speakers.push(samples, detector.tracker, last=final)))
    windows = [window for _, own in pushed for window in own]
    if not windows:
        return
    encoder = load_encoder(pushed[0][0].cfg.weights)
    embeddings = encoder.embed([window.samples for window in windows])
    for speakers, own in pushed:
        if own:
            speakers.assign(own, embeddings[: len(own)])
        embeddings = embeddings[len(own) :]


def name_words_of(speakers: SpeakerStream, words: Sequence[Word]) -> str | None:
    """Set the speakers of words that are final: the speaker of most of them."""
    starts = [word.start for word in words if word.start is not None]
    name_words(words, speakers.turns(min(starts, default=0.0) - _BEFORE_SECONDS))
    return speaker_of(words)
