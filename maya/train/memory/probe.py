"""How large a batch the memory holds, measured on synthetic batches before training begins.

At the corners of what the data hold (short and long, with few and many tokens) the largest batch is found by
doubling, then bisecting, each try being a real training step: forward, backward, clipping, optimizer. Through
the peaks of all tries goes one function of (utterances, frames, tokens), `MemoryConfig`, raised until none of
them lies above it; a plan that is made with it keeps every batch of any shape within the memory.

Each probe has a process of its own (maya.train.memory.steps). On CUDA a peak is what torch's allocator held,
and running out of memory is an answer like another. On a CPU it is the resident set of a process per try.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maya.data.plan import MemoryConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.errors import MayaError
from maya.files import json_sha256, write_json
from maya.train.memory.steps import Order, Steps

THRESHOLD = 0.05  # the largest batch is found to this share of it
MOST = 4096  # utterances of a batch that is tried
TERMS = ("fixed", "length", "utterance", "frame", "pair", "label", "node")
_CLEARLY_TOO_LITTLE = 0.02  # of the memory left for a batch: the model itself hardly fits
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemorySample:
    """One try: the peak in bytes of a step on `batch` utterances of so many seconds and tokens each; None
    where the memory was not enough."""

    batch: int
    seconds: float
    tokens: int
    peak: int | None


@dataclass(kw_only=True, slots=True)
class Probe:
    """The result: the filled-in cap, the tries, and how far the function lies above their peaks."""

    memory: MemoryConfig
    samples: list[MemorySample] = field(default_factory=list)
    excess_median: float = 0.0
    excess_max: float = 0.0
    device: str = ""


Measure = Callable[[int, float, int], int | None]


def largest(
    fits: Callable[[int], bool], *, start: int = 1, most: int = MOST, threshold: float = THRESHOLD
) -> int:
    """The largest batch that fits, found to `threshold` of itself: by doubling, then bisecting; 0 for none.

    start: where to begin. From a good guess, steps are small at first.
    """
    fitting, failing, batch = 0, most + 1, max(1, min(start, most))
    step = 1.0 if start == 1 else threshold
    while True:
        if fits(batch):
            fitting = batch
        else:
            failing = batch
        if failing - fitting <= max(1, int(threshold * fitting)):
            return fitting
        if failing > most and fitting:  # none too large yet
            batch, step = min(most, max(fitting + 1, int(fitting * (1 + step)))), 1.0
        elif fitting == 0 and step < 1.0:  # the guess was too large
            batch, step = max(1, min(batch - 1, int(batch * (1 - 2 * step)))), 1.0
        else:
            batch = (fitting + failing) // 2


def corners(seconds: float, tokens: int) -> list[tuple[float, int]]:
    """Shapes to probe, (seconds, tokens): long and short utterances, with many tokens and with one. Enough of
    them to tell the terms of MemoryConfig apart.

    The first is the largest of all: where it does not fit, nothing else need be tried.
    """
    shapes = [
        (seconds, tokens), (seconds / 8, tokens // 8), (seconds, 1), (seconds / 3, tokens // 3),
        (seconds / 2, tokens), (seconds / 3, 1),
    ]  # fmt: skip
    return [(max(round(s, 2), 0.5), max(1, u)) for s, u in shapes]


def fit(samples: Sequence[MemorySample], frames: Callable[[float], float]) -> dict[str, float]:
    """Terms of MemoryConfig by least squares of the relative error, none of them negative.

    The best fit without negative terms is the plain one on some of the terms, so all choices are tried.
    """
    measured = [x for x in samples if x.peak is not None]
    rows = np.array([_features(x.batch, frames(x.seconds), x.tokens) for x in measured])
    peaks = np.array([x.peak for x in measured], np.float64)
    scale = np.maximum(np.abs(rows).max(0), 1e-12)
    weighted = rows / scale / peaks[:, None]
    best, error = np.zeros(len(TERMS)), np.inf
    for size in range(1, min(len(TERMS), len(measured)) + 1):
        for chosen in combinations(range(len(TERMS)), size):
            coefficients = np.linalg.lstsq(weighted[:, chosen], np.ones(len(peaks)), rcond=None)[0]
            missed = float(np.square(weighted[:, chosen] @ coefficients - 1).sum())
            if coefficients.min() >= 0 and missed < error:
                best, error = np.zeros(len(TERMS)), missed
                best[list(chosen)] = coefficients
    return dict(zip(TERMS, (best / scale).tolist(), strict=True))


def probe(
    measure: Measure, memory: MemoryConfig, limit_bytes: float, shapes: Sequence[tuple[float, int]],
    frames: Callable[[float], float],
) -> Probe:  # fmt: skip
    """Try batches of each of `shapes` until the largest is known; `memory` with its terms and max_bytes.

    frames: encoder frames of so many seconds, as the plan counts them. Raises MayaError where not even one
    utterance of the first, largest shape fits.
    """
    allowed = limit_bytes * memory.safety
    samples: list[MemorySample] = []

    def fits(batch: int, seconds: float, tokens: int) -> bool:
        samples.append(MemorySample(batch, seconds, tokens, measure(batch, seconds, tokens)))
        peak = samples[-1].peak
        log.info("memory: %d x %.1f s, %d tokens: %s", batch, seconds, tokens, _gb(peak))
        return peak is not None and peak <= allowed

    for number, (seconds, tokens) in enumerate(shapes):
        start = 1
        if number:  # what is known already says about where the limit is
            guess = replace(memory, max_bytes=allowed, **fit(samples, frames))
            start = max(1, int(guess.room(frames(seconds), tokens)))
        batch_size = largest(lambda batch: fits(batch, seconds, tokens), start=start)  # noqa: B023
        if not batch_size:
            peak = samples[-1].peak
            needs = "more than there is" if peak is None else f"{peak / 1e9:.2f} GB"
            raise MayaError(
                f"one utterance of {seconds:.1f} s with {tokens} tokens needs {needs} where "
                f"{allowed / 1e9:.2f} GB may be used ({memory.safety:g} of {limit_bytes / 1e9:.2f}); give "
                "data.plan.memory.limit more, turn model.encoder.activation_checkpointing on if the encoder "
                "has it, or prepare the data with a shorter limit"
            )
    return _above_all(samples, memory, allowed, frames)


def _above_all(
    samples: list[MemorySample], memory: MemoryConfig, allowed: float, frames: Callable[[float], float]
) -> Probe:
    """The fitted function, raised to lie above all peaks."""
    fitted = replace(memory, max_bytes=allowed, **fit(samples, frames))
    excess = np.array([
        float(fitted.bytes(x.batch, frames(x.seconds), x.tokens)) / x.peak for x in samples if x.peak
    ])  # fmt: skip
    raised = max(1.0, 1 / float(excess.min()))
    memory = replace(fitted, **{name: getattr(fitted, name) * raised for name in TERMS})
    above = excess * raised - 1
    return Probe(
        memory=memory, samples=samples, excess_median=float(np.median(above)), excess_max=float(above.max())
    )


def _features(batch: float, frames: float, tokens: int) -> list[float]:
    """What the terms of MemoryConfig are multiplied with."""
    nodes = frames * (tokens + 1)
    return [1, frames, batch, batch * frames, batch * frames * frames, batch * (tokens + 1), batch * nodes]


def _gb(peak: int | None) -> str:
    return "out of memory" if peak is None else f"{peak / 1e9:.2f} GB"


def with_memory(plan: PlanConfig, order: Order, cache: Path, *, seconds: float, tokens: int) -> PlanConfig:
    """The plan with its memory cap filled in: from `cache` where it was measured before, else measured now.

    order: the model, its training and the device. seconds, tokens: the longest utterance of the data, as it
    is played, and the most tokens; rounded up, so that other data do not mean another probe. cache: a folder
    with a file per model, precision, device and version of torch. With memory.limit "off" it returns the plan
    itself. Only one rank should call this. Raises MayaError where one utterance does not fit, or "auto" is
    given on a CPU.
    """
    memory = plan.memory
    if memory.limit == "off":
        return plan
    if memory.limit == "auto" and torch.device(order.device).type != "cuda":
        raise MayaError(
            'data.plan.memory.limit "auto" takes what a GPU has free; on a CPU give it in GB, such as '
            "data.plan.memory.limit=8, or leave it off"
        )
    reach = (5.0 * np.ceil(seconds / 5 - 1e-6), int(16 * np.ceil(max(tokens, 1) / 16)))
    key = _key(order, plan, reach)
    path = cache / f"memory-{key['name']}.json"
    if path.is_file():
        return replace(plan, memory=replace(memory, **_saved(path, key)["memory"]))
    with Steps(order) as steps:
        limit = steps.free_bytes if memory.limit == "auto" else float(memory.limit) * 1e9
        steps.limit(limit)
        probed = probe(steps.peak, memory, limit, corners(*reach), Caps(plan).frames)
    terms = {name: getattr(probed.memory, name) for name in ("max_bytes", *TERMS)}
    probed.device = str(key["device"])
    rest = {"excess_median": probed.excess_median, "excess_max": probed.excess_max}
    tries = [asdict(x) for x in probed.samples]
    cache.mkdir(parents=True, exist_ok=True)
    write_json(path, key | {"memory": terms, **rest, "samples": tries})
    log.info(
        "memory: %d steps tried, the model of it lies %.0f %% above them at the median: %s",
        len(tries), 100 * probed.excess_median, path,
    )  # fmt: skip
    return replace(plan, memory=replace(memory, **terms))


def _key(order: Order, plan: PlanConfig, reach: tuple[float, int]) -> dict[str, Any]:
    """What a measurement depends on, and its hash under `name`."""
    device = torch.device(order.device)
    facts: dict[str, Any] = {
        "model": order.model,
        "precision": "bf16" if order.bf16 else "fp32",
        "hold_gradients": order.hold_gradients,
        "device": "cpu",
        "torch": torch.__version__,
        "limit": plan.memory.limit,
        "safety": plan.memory.safety,
        "frame_seconds": plan.frame_seconds,
        "seconds": float(reach[0]),
        "tokens": reach[1],
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts | {"name": json_sha256(facts)[:12]}


def _saved(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    """What an earlier probe wrote."""
    try:
        saved = json.loads(path.read_text())
        if saved["name"] != key["name"] or not set(saved["memory"]) == {"max_bytes", *TERMS}:
            raise ValueError
        return saved
    except (ValueError, KeyError, TypeError) as e:
        raise MayaError(f"{path} is damaged; remove it, and the memory is measured again") from e


def table(probed: Probe, limit_bytes: float) -> NDArray[Any]:
    """(n, 3) of (seconds, tokens, utterances): the largest batch that was seen to fit, for each shape."""
    allowed = limit_bytes * probed.memory.safety
    best: dict[tuple[float, int], int] = {}
    for x in probed.samples:
        if x.peak is not None and x.peak <= allowed:
            best[x.seconds, x.tokens] = max(best.get((x.seconds, x.tokens), 0), x.batch)
    return np.array([(s, u, n) for (s, u), n in sorted(best.items())])
