"""What was measured on dev about a model's word times and word confidences, in a file beside its checkpoint.

`maya calibrate` writes it, `maya.load` reads it, and every word that the model writes is corrected by it. It
lies beside the checkpoint (`averaged.calibration.json` beside `averaged.pt`) and not in it, so that one can
measure again, or delete it, without touching weights, and so that a .nemo archive can have one, too. It names
the size and the checksum of the checkpoint: it does not apply to other weights.
"""

import json
import logging
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maya.decode.words import Aggregation, WordRules
from maya.errors import MayaError
from maya.files import write_json

log = logging.getLogger(__name__)
_ENDS = 1 << 20  # bytes at the start and at the end of a checkpoint that identify it


@dataclass(frozen=True, slots=True)
class Curve:
    """A function from confidence to probability, not falling: straight lines between points (x, y)."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or not self.x or list(self.x) != sorted(self.x):
            raise MayaError("a calibration curve needs as many y as x, and x in ascending order")

    def __call__(self, confidence: float) -> float:
        place = bisect_right(self.x, confidence)
        if place in (0, len(self.x)):
            return self.y[max(0, place - 1)]
        x, y = self.x[place - 1 : place + 1], self.y[place - 1 : place + 1]
        return y[0] + (y[1] - y[0]) * (confidence - x[0]) / (x[1] - x[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodCalibration:
    """The measurements of one decoding method.

    offset_seconds: the mean time from where forced alignment puts a token to where the method emits it.
    aggregation: of tokens to words, for which `curve` was measured. facts: what `maya calibrate` measured.
    """

    offset_seconds: float = 0.0
    aggregation: Aggregation = "min"
    curve: Curve | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def rules(self) -> WordRules:
        return WordRules(offset_seconds=self.offset_seconds, aggregation=self.aggregation, curve=self.curve)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The calibrations of a checkpoint by decoding method."""

    checkpoint: str
    methods: Mapping[str, MethodCalibration]

    def rules(self, method: str) -> WordRules:
        """How words are made of the tokens of a method; without any correction if it was not measured."""
        measured = self.methods.get(method)
        return WordRules() if measured is None else measured.rules()


def calibration_path(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint file lies."""
    return checkpoint.with_name(checkpoint.stem + ".calibration.json")


def checkpoint_mark(path: Path) -> str:
    """A mark of a file's content: its size, and the checksum of its first and last MiB. Reading all of a
    large checkpoint again would double the time of loading."""
    size = path.stat().st_size
    with path.open("rb") as f:
        check = zlib.crc32(f.read(_ENDS))
        f.seek(max(0, size - _ENDS))
        check = zlib.crc32(f.read(), check)
    return f"{size}-{check:08x}"


def read_calibration(checkpoint: Path) -> Calibration | None:
    """The calibration of a checkpoint file; None where there is none, and with a warning where it belongs to
    other weights. Raises MayaError for a damaged file."""
    path = calibration_path(checkpoint)
    if not path.is_file():
        return None
    try:
        payload = json.loads(path.read_text())
        methods = {name: _method(values) for name, values in payload["methods"].items()}
        mark = str(payload["checkpoint"])
    except (ValueError, KeyError, TypeError, AttributeError, MayaError) as error:
        raise MayaError(f"{path} is not a calibration ({error}); delete it, or run maya calibrate") from None
    if mark != checkpoint_mark(checkpoint):
        log.warning("%s was measured with other weights and is not used: run maya calibrate again", path)
        return None
    return Calibration(checkpoint=mark, methods=methods)


def write_calibration(checkpoint: Path, measured: Mapping[str, MethodCalibration]) -> Path:
    """Add the calibrations of methods to the file of a checkpoint; returns its path."""
    mark, path = checkpoint_mark(checkpoint), calibration_path(checkpoint)
    earlier = read_calibration(checkpoint)
    methods = {**(earlier.methods if earlier is not None else {}), **measured}
    write_json(path, {"checkpoint": mark, "methods": {name: asdict(m) for name, m in methods.items()}})
    return path


def _method(values: Mapping[str, Any]) -> MethodCalibration:
    curve, aggregation = values["curve"], values["aggregation"]
    if aggregation not in ("min", "mean", "product"):
        raise MayaError(f"unknown aggregation {aggregation!r}")
    return MethodCalibration(
        offset_seconds=float(values["offset_seconds"]), aggregation=aggregation, facts=values["facts"],
        curve=None if curve is None else Curve(_numbers(curve["x"]), _numbers(curve["y"])),
    )  # fmt: skip


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))
