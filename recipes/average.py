"""Stage 4: average the weights over the end of training; the dev set chooses how much of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maya.errors import MayaError
from maya.models.hybrid import HybridModel
from maya.recipes.experiment import Experiment
from maya.recipes.markers import is_done, mark_done, stamp
from maya.recipes.train import dev_validation
from maya.train import checkpoint as ckpt
from maya.train.averaging import RunningAverage, average_between


@dataclass(kw_only=True, slots=True)
class Candidate:
    """Weights that dev may choose."""

    name: str
    step: int  # at which they, or the last of those averaged, were reached
    weights: dict[str, Tensor]


def average(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    step: int | None = None,
    avg: int | None = None,
    ends: int = 1,
    force: bool = False,
) -> None:
    """Write `run`/averaged.pt: the best on dev of best.pt, the last weights and means over stretches that
    end at one of the `ends` newest checkpoints and begin at an earlier one. The test set has no say.

    With `avg`, no choice: the mean over the `avg` steps before `step` (the newest checkpoint's where it is
    not given), which needs the checkpoints of these two steps only (icefall's --epoch and --avg).
    """
    found = ckpt.step_checkpoints(run)
    if not found:
        raise MayaError(f"{run} holds no training checkpoint; run stage 3 (train) first")
    inputs = {
        "checkpoints": [f"{p.name}:{stamp(p)}" for _, p in found],
        "best": stamp(run / "best.pt"),
        "choice": [step, avg, ends],
    }
    if is_done(run / "stage-average.json", inputs) and (run / "averaged.pt").is_file() and not force:
        print(f"average: {run / 'averaged.pt'} is up to date")
        return
    last = ckpt.load_checkpoint(found[-1][1], training=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = HybridModel(last.model_config).to(device)
    validate = dev_validation(experiment, data, last.tokenizer, last.model_config.languages)
    chosen, best, scores = None, float("inf"), {}
    for candidate in [stretch(found, step, avg)] if avg is not None else candidates(run, found, last, ends):
        name = candidate.name
        model.load_state_dict(candidate.weights)
        result = validate(model)
        scores[name] = {k: result[k] for k in ("loss", "wer", "cer")}
        print(f"average: {name:<28} dev WER {result['wer']:7.2%}  CER {result['cer']:7.2%}", flush=True)
        if chosen is None or result["error"] < best:
            chosen, best = candidate, result["error"]
    assert chosen is not None  # the last weights are always a candidate
    ckpt.save_checkpoint(
        run / "averaged.pt",
        ckpt.Checkpoint(
            model_config=last.model_config,
            tokenizer=last.tokenizer,
            weights=chosen.weights,
            step=chosen.step,
            notes=last.notes | {"weights": chosen.name, "dev": scores},
        ),
    )
    print(f"average: {chosen.name} → {run / 'averaged.pt'}")
    mark_done(run / "stage-average.json", inputs)


def candidates(
    run: Path, found: list[tuple[int, Path]], last: ckpt.Checkpoint, ends: int = 1
) -> Iterator[Candidate]:
    """What dev chooses from: the last weights, the best and, for each of the `ends` newest checkpoints, the
    means from each earlier one."""
    yield Candidate(name=f"last (step {last.step})", step=last.step, weights=last.weights)
    if (run / "best.pt").is_file():
        best = ckpt.load_checkpoint(run / "best.pt")
        if best.step != last.step:
            yield Candidate(name=f"best (step {best.step})", step=best.step, weights=best.weights)
    for end_step, end_path in reversed(found[-ends:]):
        end = ckpt.load_checkpoint(end_path, training=True)
        for start_step, start_path in reversed([f for f in found if f[0] < end_step]):
            start = ckpt.load_checkpoint(start_path, training=True)
            if 0 < _running(start).count < _running(end).count:
                yield _mean(start_step, start, end)


def stretch(found: list[tuple[int, Path]], step: int | None, avg: int) -> Candidate:
    """The mean over the `avg` steps up to `step`; both ends must have been kept."""
    paths = dict(found)
    end = found[-1][0] if step is None else step
    missing = [s for s in (end, end - avg) if s not in paths and s != 0]
    if missing or not 0 < avg <= end:
        raise MayaError(
            f"an average of {avg} steps up to step {end} needs the checkpoints of steps {end - avg} and "
            f"{end}; kept are those of {', '.join(str(s) for s in paths)} (train.keep says how many)"
        )
    start = ckpt.load_checkpoint(paths[end - avg], training=True) if end > avg else None
    return _mean(end - avg, start, ckpt.load_checkpoint(paths[end], training=True))


def _mean(start_step: int, start: ckpt.Checkpoint | None, end: ckpt.Checkpoint) -> Candidate:
    between = average_between(_running(start) if start else None, _running(end), end.weights)
    return Candidate(name=f"mean of steps {start_step}–{end.step}", step=end.step, weights=between)


def _running(checkpoint: ckpt.Checkpoint) -> RunningAverage:
    average = RunningAverage()
    if checkpoint.training is not None:
        average.load_state_dict(checkpoint.training["average"])
    return average
