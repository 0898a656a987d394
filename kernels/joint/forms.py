"""The forms of the Triton backend, and which of them is fastest at a shape.

"fused": products of our own with the log-sum-exp or the gradient of the logits in their epilogue. How many
  rows the backward pass visits stays on the device, so the host waits for nothing.
"counted": the same, but the host reads the number of rows (it waits once a backward pass). cuBLAS computes
  the gradients of weight and hidden layer from the gradient of the logits.
"cublas": cuBLAS also computes the logits of a chunk of rows, in the dtype of f, and one kernel reads them.
  The host waits as for "counted".
"auto": the fastest by forms.json, which `python -m maya.kernels.joint.tune_forms` writes on a GPU; "fused"
  for shapes that are not like a measured one. The table is empty until a GPU has filled it, so that "auto" is
  "fused".

With eps = 0, "counted" and "cublas" visit all rows, and the host does not wait.
"""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

FORMS = ("auto", "fused", "counted", "cublas")
TABLE = Path(__file__).with_name("forms.json")
LARGEST_RATIO = 2.0  # of rows, H or V to those that were measured


@dataclass(frozen=True, slots=True)
class FormTimes:
    """Median seconds of forward and backward by form, at R rows of H channels and V symbols.

    device: torch's name of the GPU. dtype: of f, such as "bfloat16".
    """

    device: str
    dtype: str
    rows: int
    hidden: int
    vocab: int
    seconds: dict[str, float]


def check_form(op: str, form: str) -> None:
    """Raises ValueError for an unknown form."""
    if form not in FORMS:
        raise ValueError(f"{op}: unknown form {form!r}; use one of {FORMS}")


def fastest_form(rows: int, hidden: int, vocab: int, dtype: torch.dtype, device: torch.device) -> str:
    """The form that "auto" stands for."""
    if device.type != "cuda":
        return "fused"
    return fastest(table(), torch.cuda.get_device_name(device), dtype, (rows, hidden, vocab))


def fastest(measured: tuple[FormTimes, ...], device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """The fastest form at the measured shape that is nearest to (R, H, V), if one is near enough."""

    def distances(row: FormTimes) -> list[float]:
        pairs = zip(shape, (row.rows, row.hidden, row.vocab), strict=True)
        return [abs(math.log(max(a, 1) / b)) for a, b in pairs]

    name, most = str(dtype).removeprefix("torch."), math.log(LARGEST_RATIO)
    near = [x for x in measured if (x.device, x.dtype) == (device, name) and max(distances(x)) <= most]
    if not near:
        return "fused"
    seconds = min(near, key=lambda row: sum(distances(row))).seconds
    return min(seconds, key=lambda form: seconds[form])


@functools.cache
def table(path: Path = TABLE) -> tuple[FormTimes, ...]:
    """The measurements of forms.json."""
    return tuple(FormTimes(**row) for row in json.loads(path.read_text()))
