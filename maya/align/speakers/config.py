"""Options of speaker tracking."""

from typing import Annotated

from maya.config import config
from maya.ranges import NonNegFloat, PosFloat, Range


@config
class SpeakersConfig:
    """weights: path of an encoder's `pretrained.pt`; empty for that of the installed package resemblyzer.
    window_seconds, hop_seconds: a voice is compared in windows of this length, one each hop, within speech.
    join_seconds: a shorter pause does not divide speech. least_seconds: of speech, for a window; shorter
        speech takes the speaker of its neighbour.
    most: speakers; names are the letters from A.
    threshold: two clusters of windows with a higher mean cosine are one speaker.
    speaker_seconds: of windows, for a speaker; less belongs to the one that is most alike.
    """

    weights: str = ""
    window_seconds: PosFloat = 1.6
    hop_seconds: PosFloat = 0.5
    join_seconds: NonNegFloat = 0.3
    least_seconds: PosFloat = 0.4
    most: Annotated[int, Range(min=1, max=26)] = 8
    threshold: Annotated[float, Range(min=0, max=1)] = 0.62
    speaker_seconds: NonNegFloat = 2.0
