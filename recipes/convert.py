"""Convert models of other systems to Maya checkpoints."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from maya.convert import Conversion, import_icefall, import_nemo
from maya.convert.nemo.config import FrontEnd
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, step_checkpoints
from maya.train.runlog import write_json

CHECKPOINT, REPORT = "best.pt", "convert.json"


def open_checkpoint(path: Path) -> Checkpoint:
    """A Maya checkpoint or run folder, or a `.nemo` archive, which is converted in memory.

    Raises MayaError for an unrecognised file, and for an archive that cannot be converted.
    """
    return import_nemo(path).checkpoint if path.suffix == ".nemo" else load_checkpoint(path)


def convert_nemo(
    source: Path,
    out: Path,
    *,
    front_end: FrontEnd = "auto",
    encoder_only: bool = False,
    tokenizer: Path | None = None,
    ignore: Collection[str] = (),
) -> Path:
    """Write `out`/best.pt and `out`/convert.json from a `.nemo` archive, print the report, return the path.

    The folder can be used like that of a run: transcribe, info, export, train.init_from. See
    `maya.convert.import_nemo` for the options and errors.
    """
    _check_free(out)
    pieces = Tokenizer.load(tokenizer) if tokenizer is not None else None
    return _written(
        out,
        import_nemo(source, front_end=front_end, encoder_only=encoder_only, tokenizer=pieces, ignore=ignore),
    )


def convert_icefall(source: Path, out: Path, tokenizer: Path, **options: Any) -> Path:
    """The same for a checkpoint of icefall's Zipformer recipe. See `maya.convert.import_icefall` for the
    options and errors."""
    _check_free(out)
    return _written(out, import_icefall(source, tokenizer, **options))


def _written(out: Path, made: Conversion) -> Path:
    path = out / CHECKPOINT
    save_checkpoint(path, made.checkpoint)
    write_json(out / REPORT, made.report.to_dict())
    print(made.report.text())
    print(f"checkpoint  {path}")
    return path


def _check_free(out: Path) -> None:
    """Refuse a folder that holds a run, whose checkpoints must not be replaced."""
    if out.is_file():
        raise MayaError(f"{out} is a file; give a folder for the converted model")
    trained = step_checkpoints(out) or (out / "averaged.pt").exists()
    if trained or ((out / CHECKPOINT).exists() and not (out / REPORT).exists()):
        raise MayaError(f"{out} holds a training run; give another folder for the converted model")
