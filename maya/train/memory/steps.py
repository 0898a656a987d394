"""Training steps on synthetic batches in a process of their own, and the memory each takes.

`Steps` starts this module as a program and asks it for one step after the other. On CUDA the program keeps
model and optimizer and answers with what torch's allocator held at most. On a CPU it is forked for each step,
since a peak of the resident set can only rise, and memory that was freed need not be given back.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from maya.config import from_dict, to_dict
from maya.data.loading.batch import Batch
from maya.errors import MayaError
from maya.kernels.bench.peak import forked, resident
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.failure import is_out_of_memory
from maya.train.optimizers.optim import make_optimizer
from maya.train.optimizers.schedule import frozen_throughout
from maya.train.step import Step, train_step
from maya.train.teacher import start_heads

# Of a launcher: the program is not one of its ranks.
_RANK_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE",
)  # fmt: skip
_OVER_LIMIT = 1.3  # on a CPU a step may take this much of the limit before it is refused memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is measured. model, train: SpeechModelConfig and TrainConfig as dicts.

    hold_gradients: gradients of an earlier batch lie in memory, as with accumulation, or in DDP's buckets,
        which are as large and stay between steps.
    threads: of torch, on a CPU.
    own_code: for a model that may need code of the user's own, the function that imports it, written as
        "module:function", and the path that this function takes.
    """

    model: dict[str, Any]
    train: dict[str, Any]
    device: str
    bf16: bool
    hold_gradients: bool = False
    threads: int = 1
    own_code: Sequence[str] = ()

    def import_own_code(self) -> None:
        """Register the kinds of configuration that the user's own code defines."""
        if self.own_code:
            name, path = self.own_code
            module, _, function = name.partition(":")
            getattr(importlib.import_module(module), function)(Path(path))

    @classmethod
    def of(
        cls, model: SpeechModelConfig, train: TrainConfig, device: torch.device, *, bf16: bool,
        world_size: int = 1, own_code: Sequence[str] = (),
    ) -> "Order":  # fmt: skip
        """The training of a model on a device by `world_size` ranks, with torch's present threads."""
        return cls(
            model=to_dict(model), train=to_dict(train), device=str(device), bf16=bf16,
            hold_gradients=train.accumulate > 1 or world_size > 1, threads=torch.get_num_threads(),
            own_code=own_code,
        )  # fmt: skip


class Steps:
    """A running measuring program. Use it in a `with` statement.

    free_bytes: of the GPU before anything of the program lies there; 0 on a CPU.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._limit: float | None = None

    def __enter__(self) -> "Steps":
        without = [word for name in _RANK_VARIABLES for word in ("-u", name)]
        command = ["env", *without, sys.executable, "-m", "maya.train.memory.steps"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.free_bytes = float(self._ask(asdict(self._order))["free_bytes"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def limit(self, limit_bytes: float) -> None:
        """From here on steps on a CPU may not take much more than this, whatever the machine has."""
        self._limit = limit_bytes

    def peak(self, batch: int, seconds: float, tokens: int) -> int | None:
        """Bytes at the highest of a step on so many utterances of this size each, or None: out of memory."""
        size = {"batch": batch, "seconds": seconds, "tokens": tokens, "limit": self._limit}
        peak: int | None = self._ask(size)["peak"]
        return peak

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise MayaError(
                f"the process that measures memory ended with status {status}, with its message above; turn "
                "the measurement off with data.plan.memory.limit=off"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MayaError(
                f"a step of the memory probe failed: {answer['error']}; turn the measurement off with "
                "data.plan.memory.limit=off"
            )
        return answer


class Stepper:
    """A model in training, and its steps."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        torch.manual_seed(0)
        self.cuda = torch.device(order.device).type == "cuda"
        self._train = from_dict(TrainConfig, order.train)
        self._train.precision, self._train.threads = "bf16" if order.bf16 else "fp32", 0
        self._batches = 2 if order.hold_gradients else 1
        self._accelerator = make_accelerator(self._train, cpu=not self.cuda)
        self._model = build_model(from_dict(SpeechModelConfig, order.model)).to(self._accelerator.device)
        start_heads(self._model, list, lambda label: defaultdict(lambda: 1), self._accelerator.device)
        cfg = self._train
        self._model.freeze(frozen_throughout(cfg))
        self._optimizer = make_optimizer(self._model, cfg)
        self._model.begin_step(cfg.steps, 1e9)  # all that is scheduled has come to its end
        self._model = self._accelerator.prepare_model(self._model)
        self._average = RunningAverage()
        self.step(1, 1.0, 1)  # optimizer state, thread pools, lazily loaded libraries
        if not self.cuda:
            self._average.update(self._model.state_dict())

    def step(self, batch: int, seconds: float, tokens: int) -> None:
        """Forward, backward, clipping and optimizer on so many utterances, as far into training as it gets:
        nothing frozen or left out any more."""
        cfg = self._model.cfg
        size = (batch, seconds, tokens, cfg.vocab_size, int(cfg.blank_first))
        options = {"sample_rate": cfg.features.sample_rate, "sources": cfg.sources}
        group = [synthetic(*size, **options) for _ in range(self._batches)]
        with tempfile.TemporaryDirectory() as folder:
            state = State(step=self._train.steps)
            tools = Step(self._model, self._optimizer, self._accelerator, Path(folder))
            train_step(tools, group, self._train, state)

    def peak(self, batch: int, seconds: float, tokens: int) -> int | None:
        """See `Steps.peak`; on a CPU of the process since its start, so only once."""
        if not self.cuda:
            self.step(batch, seconds, tokens)
            return resident("VmHWM")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        enough = True
        try:
            self.step(batch, seconds, tokens)
            torch.cuda.synchronize()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            enough = False
        if enough:
            return torch.cuda.max_memory_reserved()
        # Only here: within the handler the error still holds the step's tensors.
        self._optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        return None


def synthetic(
    batch: int, seconds: float, tokens: int, vocab_size: int, first: int = 0, *, sample_rate: int = 16000,
    sources: int = 0,
) -> Batch:  # fmt: skip
    """Noise with labels at random from `first` on (1 where the blank is 0), no two neighbours alike, all
    utterances equally long. sources: speakers in each of them, for a model that separates."""
    samples = int(seconds * sample_rate)
    make = torch.Generator().manual_seed(batch)
    labels = vocab_size - first
    steps = torch.randint(1, max(2, labels), (batch, tokens), generator=make)
    return Batch(
        audio=torch.randn(batch, samples, generator=make) * 0.1,
        audio_lens=torch.full((batch,), samples),
        sample_rate=sample_rate,
        tokens=first + steps.cumsum(1) % labels,
        token_lens=torch.full((batch,), tokens),
        langs=torch.zeros(batch, dtype=torch.int64),
        ids=[str(i) for i in range(batch)],
        sources=torch.randn(batch, sources, samples, generator=make) * 0.1 if sources else None,
    )


def _in_child(order: Order, size: dict[str, Any]) -> dict[str, Any]:
    """One step in a fork of this process, which has computed nothing yet."""
    answer, status = forked(lambda: _on_cpu(order, size))
    if answer is None:
        return {"peak": None} if status == -9 else {"error": f"it ended with status {status}"}
    return answer


def _on_cpu(order: Order, size: dict[str, Any]) -> dict[str, Any]:
    limit = size.pop("limit")
    if limit is not None:
        most = resident("VmData") + int(limit * _OVER_LIMIT)  # what is mapped already need not be in use
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        return {"peak": Stepper(order).peak(**size)}
    except (RuntimeError, MemoryError, OSError, MayaError) as error:  # memory refused, or bad input
        if is_out_of_memory(error):
            return {"peak": None}
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Read an Order, then sizes, a line each, and answer each with a line."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    order = Order(**json.loads(questions.readline()))
    stepper = None
    try:
        order.import_own_code()
    except MayaError as error:
        say({"error": str(error)})
        return
    device = torch.device(order.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        free = torch.cuda.mem_get_info()[0]
        try:
            stepper = Stepper(order)
        except torch.OutOfMemoryError:
            say({"error": f"the model does not fit into the {free / 1e9:.1f} GB that are free"})
            return
        say({"free_bytes": free})
    else:
        say({"free_bytes": 0})
    for line in questions:
        size = json.loads(line)
        if stepper is None:
            say(_in_child(order, size))
        else:
            size.pop("limit")
            say({"peak": stepper.peak(**size)})


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print must not come between the answers
    serve(sys.stdin, out)
