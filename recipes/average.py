"""Stage 4: average the weights over the end of training; the dev set chooses how much of it."""

from collections.abc import Iterator
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


def average(experiment: Experiment, data: Path, run: Path, *, force: bool = False) -> None:
    """Write `run`/averaged.pt: the best on dev of best.pt, the last weights and means of the last steps."""
    found = ckpt.step_checkpoints(run)
    if not found:
        raise MayaError(f"{run} holds no training checkpoint; run stage 3 (train) first")
    inputs = {"checkpoints": [f"{p.name}:{stamp(p)}" for _, p in found], "best": stamp(run / "best.pt")}
    if is_done(run / "stage-average.json", inputs) and (run / "averaged.pt").is_file() and not force:
        print(f"average: {run / 'averaged.pt'} is up to date")
        return
    last = ckpt.load_checkpoint(found[-1][1], training=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = HybridModel(last.model_config).to(device)
    validate = dev_validation(experiment, data, last.tokenizer, last.model_config.languages)
    chosen, scores = None, {}
    for name, weights in candidates(run, found, last):
        model.load_state_dict(weights)
        result = validate(model)
        scores[name] = {k: result[k] for k in ("loss", "wer", "cer")}
        print(f"average: {name:<28} dev WER {result['wer']:7.2%}  CER {result['cer']:7.2%}", flush=True)
        if chosen is None or result["error"] < chosen[0]:
            chosen = (result["error"], name, weights)
    assert chosen is not None  # the last weights are always a candidate
    ckpt.save_checkpoint(
        run / "averaged.pt",
        ckpt.Checkpoint(
            model_config=last.model_config,
            tokenizer=last.tokenizer,
            weights=chosen[2],
            step=last.step,
            notes=last.notes | {"weights": chosen[1], "dev": scores},
        ),
    )
    print(f"average: {chosen[1]} → {run / 'averaged.pt'}")
    mark_done(run / "stage-average.json", inputs)


def candidates(
    run: Path, found: list[tuple[int, Path]], last: ckpt.Checkpoint
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(name, state dict) of what dev chooses from."""
    yield f"last (step {last.step})", last.weights
    if (run / "best.pt").is_file():
        best = ckpt.load_checkpoint(run / "best.pt")
        if best.step != last.step:
            yield f"best (step {best.step})", best.weights
    assert last.training is not None
    end = _running(last.training)
    for step, path in reversed(found[:-1]):
        training = ckpt.load_checkpoint(path, training=True).training
        start = _running(training) if training else None
        if start and start.count < end.count:
            yield f"mean of steps {step}–{last.step}", average_between(start, end, last.weights)


def _running(training: dict) -> RunningAverage:
    average = RunningAverage()
    average.load_state_dict(training["average"])
    return average
