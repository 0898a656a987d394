"""Speech for tests of training: every letter is a tone, so that a model learns it in seconds."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
LETTER_SECONDS = 0.24
LETTERS = "abcdefgh"


def speak(text: str, *, pitch: float = 1.0) -> np.ndarray:
    """Samples (N,) float32: one tone with soft edges for each letter, and a pause for each space."""
    pieces = [np.zeros(RATE // 10)]
    t = np.arange(int(RATE * LETTER_SECONDS)) / RATE
    edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    for letter in text:
        if letter == " ":
            pieces.append(np.zeros(RATE // 8))
            continue
        frequency = 250 * pitch * 1.3 ** LETTERS.index(letter)
        pieces.append(0.3 * edge * np.sin(2 * np.pi * frequency * t))
    pieces.append(np.zeros(RATE // 10))
    return np.concatenate(pieces).astype(np.float32)


def make_corpus(
    folder: Path, *, utterances: int = 24, languages: tuple[str, ...] = ("en", "hi"), seed: int = 0
) -> Path:
    """A corpus folder of spoken tones with `split` in its manifest: most train, the rest dev and test."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for language in languages:
        for i in range(utterances):
            words = [
                "".join(rng.choice(list(LETTERS), rng.integers(1, 4))) for _ in range(rng.integers(1, 4))
            ]
            text, name = " ".join(words), f"{language}-{i:03d}"
            audio = speak(text, pitch=0.9 + 0.05 * (i % 4))
            soundfile.write(folder / f"{name}.wav", audio, RATE)
            split = ("train", "train", "train", "train", "dev", "test")[i % 6]
            rows.append(
                {
                    "id": name,
                    "language": language,
                    "text": text,
                    "audio": f"{name}.wav",
                    "speaker": f"{language}-{split}-{i % 4}",
                    "duration": len(audio) / RATE,
                    "split": split,
                }
            )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder
