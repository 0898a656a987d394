"""Options of voice activity detection. The defaults are those of silero-vad."""

import math
from typing import Annotated, Literal

from maya.config import config
from maya.ranges import Limit, NonNegFloat, Range

Detector = Literal["auto", "silero", "energy", "trained"]


@config
class VADConfig:
    """Times are in seconds.

    detector: "silero" is a small network whose weights come with the package silero-vad (or from `weights`);
        "energy" compares the level with the background noise; "auto" is silero where its weights are;
        "trained" is a model of one's own, see egs/vad.
    weights: path of a `silero_vad.jit` or `silero_vad_16k.safetensors`; empty for the installed package's.
        Of "trained": the run or the checkpoint.
    threshold: speech begins at this probability. exit_threshold: silence begins below this one; None for
        threshold - 0.15.
    min_speech_seconds: shorter speech is dropped. min_silence_seconds: shorter silence does not end speech.
    pad_seconds: added to both sides of a span; two spans share a shorter pause between them half and half.
    max_speech_seconds: longer speech is cut in its longest pause of more than `cut_pause_seconds`, or where
        it is too long if it has no pause.
    """

    detector: Detector = "auto"
    weights: str = ""
    threshold: Annotated[float, Range(above=0, below=1)] = 0.5
    exit_threshold: Annotated[float, Range(above=0, below=1)] | None = None
    min_speech_seconds: NonNegFloat = 0.25
    min_silence_seconds: NonNegFloat = 0.1
    pad_seconds: NonNegFloat = 0.03
    max_speech_seconds: Limit = math.inf
    cut_pause_seconds: NonNegFloat = 0.098

    @property
    def exit(self) -> float:
        """The probability below which silence begins."""
        return self.exit_threshold if self.exit_threshold is not None else max(self.threshold - 0.15, 0.01)
