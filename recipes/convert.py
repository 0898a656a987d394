"""Other systems' models as Maya checkpoints."""

from collections.abc import Collection, Sequence
from pathlib import Path

from maya.convert.icefall.checkpoint import Which
from maya.convert.icefall.load import IcefallImport, import_icefall
from maya.convert.nemo.config import FrontEnd
from maya.convert.nemo.load import NemoImport, import_nemo
from maya.errors import MayaError
from maya.files import write_json
from maya.text.load import load_tokenizer
from maya.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, step_checkpoints

CHECKPOINT, REPORT = "best.pt", "convert.json"


def open_checkpoint(path: Path) -> Checkpoint:
    """A Maya checkpoint or run folder, or a `.nemo` archive, which is converted in memory.

    Raises MayaError for what is none of them, and for an archive that cannot be converted.
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

    The folder then serves wherever a run's does: transcribe, info, export, train.init_from. See
    `maya.convert.import_nemo` for the options and errors.
    """
    _check_free(out)
    made = import_nemo(
        source,
        front_end=front_end,
        encoder_only=encoder_only,
        tokenizer=load_tokenizer(tokenizer) if tokenizer is not None else None,
        ignore=ignore,
    )
    return _written(out, made)


def convert_icefall(
    source: Path,
    out: Path,
    tokenizer: Path,
    *,
    average_with: Path | None = None,
    which: Which = "model",
    overrides: Sequence[str] = (),
) -> Path:
    """Write `out`/best.pt and `out`/convert.json from a checkpoint of icefall's Zipformer recipe, print the
    report, return the path.

    See `convert_nemo` for what the folder is good for, `maya.convert.import_icefall` for options and errors.
    """
    _check_free(out)
    made = import_icefall(source, tokenizer, average_with=average_with, which=which, overrides=overrides)
    return _written(out, made)


def _written(out: Path, made: NemoImport | IcefallImport) -> Path:
    path = out / CHECKPOINT
    save_checkpoint(path, made.checkpoint)
    write_json(out / REPORT, made.report.to_dict())
    print(made.report.text())
    print(f"checkpoint  {path}")
    return path


def _check_free(out: Path) -> None:
    """Refuse a folder that holds a run: its checkpoints are not to be replaced."""
    if out.is_file():
        raise MayaError(f"{out} is a file; give a folder for the converted model")
    trained = step_checkpoints(out) or (out / "averaged.pt").exists()
    if trained or ((out / CHECKPOINT).exists() and not (out / REPORT).exists()):
        raise MayaError(f"{out} holds a training run; give another folder for the converted model")
