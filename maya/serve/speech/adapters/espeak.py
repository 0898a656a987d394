"""eSpeak NG: 140 languages without weights, by the package espeakng-loader (GPL-3.0)."""

import numpy as np
from numpy.typing import NDArray

from maya.audio.espeak import RATE, espeak_languages, spoken
from maya.text.espeak import ESPEAK_RATE

_WORDS_A_MINUTE = (175, 80, 450)  # at speed 1, and the limits of eSpeak
_VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")


class EspeakVoices:
    """Voices: a language, such as en-us, and a variant of the voice after a +, such as en-us+f2."""

    def __init__(self, argument: str) -> None:
        first = argument or "en-us"
        languages = espeak_languages()
        if first not in languages:
            raise ValueError(f"eSpeak NG has no language {first!r}; it has {', '.join(languages)}")
        names = [first, *(name for name in languages if name != first)]
        self.voices = [name + variant for name in names for variant in ("", *(f"+{v}" for v in _VARIANTS))]

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """See `Adapter`."""
        usual, slowest, fastest = _WORDS_A_MINUTE
        rate = min(fastest, max(slowest, round(usual * speed)))
        return spoken(text, voice, ((RATE, rate),)), ESPEAK_RATE
