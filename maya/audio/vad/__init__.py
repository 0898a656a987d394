"""Voice activity: where somebody speaks. Silero's network where its weights are, else energy."""

from maya.audio.vad.config import VADConfig
from maya.audio.vad.detector import SpeechDetector, speech_spans
from maya.audio.vad.spans import SpanTracker, SpeechSpan

__all__ = ["SpeechSpan", "SpanTracker", "SpeechDetector", "VADConfig", "speech_spans"]
