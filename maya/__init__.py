"""Maya: speech recognition training, evaluation and serving in pure PyTorch.

Letters used for shapes, the same everywhere: B batch, N samples, T feature frames, S subsampled
frames, F mel bins, D channels, U tokens, V vocabulary with blank, H heads, K head size.
A tensor with a time axis always travels with its lengths.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maya.decode.recognizer import Recognizer
    from maya.models.config import SpeechModelConfig

__version__ = "0.3.0"

# A checkout always imports its own kernels/ and recipes/, also where another copy of Maya is installed.
_TOP = Path(__file__).resolve().parents[1]
if (_TOP / "setup.py").is_file() and (_TOP / "recipes" / "cli.py").is_file():
    __path__ = [*__path__, str(_TOP)]


def load(path: str | Path, device: str = "auto", *, places: SpeechModelConfig | None = None) -> Recognizer:
    """A trained model from a checkpoint file or a run folder (averaged.pt, best.pt, or the newest step), or
    from a NeMo archive (.nemo), or from a Parakeet or Whisper folder of Hugging Face, also as hf:owner/name,
    or a Whisper folder of CTranslate2.

    `device` is "auto" (the first GPU, else the CPU) or any torch device. `places` gives paths that differ on
    this machine, such as that of a language model; see `maya.models.config.with_places`. Raises MayaError for
    a path that holds no Maya checkpoint, and for a device that this machine lacks.
    """
    from maya.decode.calibration import read_calibration
    from maya.decode.recognizer import Recognizer, choose_device
    from maya.encoders.hugging_face.folder import HUB, folder_with, is_whisper
    from maya.models.config import with_places
    from maya.train.checkpoints.checkpoint import build, find_checkpoint, load_checkpoint
    from maya.train.heads import read_heads, untrained_names

    where = choose_device(device)
    if Path(path).suffix == ".nemo":
        from maya.convert import from_nemo

        recognizer = from_nemo(path, device=where)
        recognizer.calibration = read_calibration(Path(path))
        return recognizer
    if is_whisper(Path(path)):
        from maya.convert import import_whisper

        return import_whisper(path).recognizer(where)
    if folder := path if str(path).startswith(HUB) else folder_with(Path(path)):
        from maya.convert import from_hugging_face

        return from_hugging_face(folder, device=where)
    path = find_checkpoint(Path(path))
    checkpoint = load_checkpoint(path)
    if places is not None:
        checkpoint.model_config = with_places(checkpoint.model_config, places)
    heads, untrained = read_heads(checkpoint), untrained_names(checkpoint)
    # The choice of a decoding method names text heads that a training left out.
    new, text = checkpoint.notes.get("untrained", ()), checkpoint.model_config.text_heads
    if named := [name for name in untrained if name in new or name not in text]:
        logging.getLogger(__name__).warning("%s: not trained yet: %s", path, ", ".join(named))
    model = build(checkpoint).to(where)
    model.untrained = untrained
    return Recognizer(
        model=model, tokenizer=checkpoint.tokenizer, device=where, heads=heads,
        calibration=read_calibration(path),
    )  # fmt: skip
