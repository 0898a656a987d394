"""Voice activity detection: where somebody speaks. Silero's network where its weights are, else energy."""

from maya.audio.vad.config import VADConfig
from maya.audio.vad.detector import SpeechDetector, speech_spans
from maya.audio.vad.spans import Span, SpanTracker

__all__ = ["Span", "SpanTracker", "SpeechDetector", "VADConfig", "speech_spans"]
