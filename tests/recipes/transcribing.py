"""A small model and recordings for tests of `maya transcribe`."""

from pathlib import Path

import soundfile

from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tones
from tests.convert.archives import recognizer


def save_model(path: Path) -> Path:
    """A checkpoint with random weights that writes some text for any sound."""
    small = recognizer()
    save_checkpoint(
        path,
        Checkpoint(
            model_config=small.model.cfg, tokenizer=small.tokenizer, weights=small.model.state_dict(),
            step=1, notes={},
        ),
    )  # fmt: skip
    return path


def save_recordings(folder: Path, count: int, *, bad: int = 0) -> list[Path]:
    """Recordings of tones of 1 to 3 s, of which `bad` are damaged in different ways; returns the bad ones."""
    folder.mkdir(parents=True)
    texts = ["abc de", "ha", "gfe dcb a", "bad cab dad fed"]
    for i, text in enumerate(texts):
        soundfile.write(folder / f"{i:04d}.flac", tones.speak(text), tones.RATE)
    whole = [(folder / f"{i:04d}.flac").read_bytes() for i in range(len(texts))]
    spoilt, every = [], count // bad if bad else count + 1
    for i in range(len(texts), count):
        data = whole[i % len(whole)]
        if i % every == every - 1 and len(spoilt) < bad:
            data = (b"no audio", data[: len(data) // 2], b"")[len(spoilt) % 3]
            spoilt.append(folder / f"{i:04d}.flac")
        (folder / f"{i:04d}.flac").write_bytes(data)
    return spoilt
