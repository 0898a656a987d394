"""Kokoro-82M, by the package kokoro (Apache-2.0), from a folder: nothing is downloaded."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_RATE = 24000
_ENGLISH = "en_core_web_sm"  # misaki downloads it when it is missing
_REPOSITORY = "hexgrad/Kokoro-82M"  # a name that the package wants; with the paths given it fetches nothing


class KokoroVoices:
    """argument: a folder with config.json, one .pth, and voices/NAME.pt; the first letter of NAME is the
    language: a and b English (American, British), e Spanish, f French, h Hindi, i Italian, j Japanese,
    p Portuguese, z Chinese."""

    def __init__(self, argument: str) -> None:
        from kokoro import KModel  # noqa: PLC0415  an optional package

        folder = Path(argument)
        weights = sorted(folder.glob("*.pth"))
        files = sorted((folder / "voices").glob("*.pt"))
        if len(weights) != 1 or not files or not (folder / "config.json").is_file():
            raise ValueError(f"{folder} must hold config.json, one .pth, and voices/NAME.pt")
        config, model = str(folder / "config.json"), str(weights[0])
        self._model = KModel(repo_id=_REPOSITORY, config=config, model=model).eval()
        self._packs = {file.stem: torch.load(file, map_location="cpu", weights_only=True) for file in files}
        self._pipelines: dict[str, Any] = {}
        self.voices = list(self._packs)

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """See `Adapter`."""
        from kokoro import KPipeline  # noqa: PLC0415

        language = voice[0]
        if language not in self._pipelines:
            if language in "ab" and importlib.util.find_spec(_ENGLISH) is None:
                raise ValueError(f"English needs the spaCy model {_ENGLISH}: install it first")
            self._pipelines[language] = KPipeline(language, repo_id=_REPOSITORY, model=self._model)
        results = self._pipelines[language](text, voice=self._packs[voice], speed=speed)
        parts = [result.audio.numpy() for result in results if result.audio is not None]
        audio = np.concatenate([np.zeros(0, np.float32), *parts])
        return (audio.clip(-1, 1) * 32767).astype(np.int16), _RATE
