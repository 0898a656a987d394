"""Piper: a voice is an ONNX file and its .json, by the package piper-tts (GPL-3.0)."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PiperVoices:
    """argument: a voice, NAME.onnx with NAME.onnx.json beside it, or a folder of them."""

    def __init__(self, argument: str) -> None:
        self._piper: Any = importlib.import_module("piper")  # of the optional distribution piper-tts
        path = Path(argument)
        files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no voice, NAME.onnx")
        self._voices = {file.stem: self._piper.PiperVoice.load(file) for file in files}
        self.voices = list(self._voices)

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """See `Adapter`."""
        own = self._voices[voice]
        text = re.sub(r"\[\[|\]\]", " ", text)  # between them Piper reads phonemes
        cfg = self._piper.SynthesisConfig(length_scale=own.config.length_scale / speed)
        chunks = [chunk.audio_int16_array for chunk in own.synthesize(text, syn_config=cfg)]
        return np.concatenate([np.zeros(0, np.int16), *chunks]), own.config.sample_rate
