"""The part of a comparison of two checkouts that runs inside each: `tools.bench.step` and `sizing` start it.

It works in checkouts since commit bf54402, whose modules had other names. It answers each line of JSON on
standard input, {"do": name, ...}, with a line of JSON.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import IO, Any

MODELS = ("fastconformer", "zipformer", "lact")


def _first(*modules: str) -> Any:
    """The first of the modules that this checkout has."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"this checkout has none of {', '.join(modules)}")


def model_config(model: str, vocab: int = 256, hidden: int = 160, **encoder: Any) -> Any:
    """A small model of a kind with transducer and CTC. hidden: width of predictor and joint. encoder: fields
    of its configuration to change."""
    presets, lact = map(importlib.import_module, ("maya.recipes.presets", "maya.recipes.lact_presets"))
    parts = _first("maya.heads.transducer", "maya.transducer")
    hybrid = importlib.import_module("maya.models.hybrid")
    base = presets.zipformer_low_resource() if model == "zipformer" else presets.tiny()
    base.encoder = lact.lact_tiny(feat_in=base.encoder.feat_in) if model == "lact" else base.encoder
    for name, value in encoder.items():
        setattr(base.encoder, name, tuple(value) if isinstance(value, list) else value)
    lstm, stateless = parts.PredictorConfig(hidden=hidden, layers=1), parts.StatelessConfig(hidden=hidden)
    predictor = stateless if model == "zipformer" else lstm
    make = hybrid.hybrid if hasattr(hybrid, "hybrid") else hybrid.HybridConfig
    return make(
        features=base.features, encoder=base.encoder, predictor=predictor,
        joint=parts.JointConfig(hidden=hidden), transducer="pruned" if model == "zipformer" else "tdt",
        vocab_size=vocab, languages=("en",),
    )  # fmt: skip


class Worker:
    """Holds the models between the questions."""

    def __init__(self) -> None:
        self.steppers: dict[str, Any] = {}
        self.recognizer: Any = None

    def step(self, model: str, size: list[Any], repeat: int) -> dict[str, Any]:
        """CPU seconds of `repeat` training steps on (utterances, seconds, tokens), and a sum over the weights
        after them."""
        config = importlib.import_module("maya.config")
        steps, loop = map(importlib.import_module, ("maya.train.memory.steps", "maya.train.loop"))
        if model not in self.steppers:
            order = {
                "model": config.to_dict(model_config(model)),
                "train": config.to_dict(loop.TrainConfig()),
            }
            self.steppers[model] = steps.Stepper(steps.Order(**order, device="cpu", bf16=False))
        stepper = self.steppers[model]
        began = time.process_time()
        for _ in range(repeat):
            stepper.step(*size)
        spent = time.process_time() - began
        weights = stepper._model.parameters()
        return {"seconds": spent, "digest": sum(float(p.detach().abs().double().sum()) for p in weights)}

    def transcribe(self, files: list[str], method: str, options: dict[str, Any]) -> dict[str, Any]:
        """CPU seconds of `transcribe` with random weights, and the texts."""
        bench = _first("tools.bench.transcribe", "tools.bench_transcribe")
        load_audio = _first("maya.audio.load", "maya.data.audio").load_audio
        if self.recognizer is None:
            texts = options.pop("texts")
            self.recognizer = bench.random_model(
                Namespace(**options), texts, [load_audio(f) for f in files[::4]]
            )
        began = time.process_time()
        hyps = self.recognizer.transcribe(files, method=method)
        return {"seconds": time.process_time() - began, "digest": [h.text for h in hyps]}

    def paper(self, options: dict[str, Any], size: list[float], hold_gradients: bool) -> dict[str, Any]:
        """Bytes that maya.models.sizing estimates for a step on a CPU, of (utterances, seconds, tokens)."""
        sizing, cfg = importlib.import_module("maya.models.sizing"), model_config(**options)
        memory = sizing.memory(cfg, sizing.Training(cuda=False, bf16=False, hold_gradients=hold_gradients))
        return {"bytes": memory.bytes(size[0], sizing.count_frames(cfg, size[1])[1], size[2])}


class Checkout:
    """A worker in a checkout at `top`. Use it in a `with` statement."""

    def __init__(self, top: Path) -> None:
        self.top = top.resolve()

    def __enter__(self) -> "Checkout":
        path = [str(self.top / "tools/uninstalled"), str(self.top), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command, cwd=self.top, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer of `Worker.<do>`. Raises SystemExit if the worker ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.top}: the worker ended, with its message above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(questions: IO[str], answers: IO[str]) -> None:
    worker = Worker()
    for line in questions:
        arguments = json.loads(line)
        answers.write(json.dumps(getattr(worker, arguments.pop("do"))(**arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # instead of the folder of this file, which belongs to another checkout
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output must not come between the answers
    serve(sys.stdin, out)
