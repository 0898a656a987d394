"""The advice of `maya train` after an out-of-memory error, with and without a measurement."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maya.config import to_dict
from maya.data.plan import BatchPlan, MemoryConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import hybrid
from maya.recipes import memory, presets
from maya.recipes.lact_presets import lact_tiny
from maya.recipes.memory import advice
from maya.train.config import TrainConfig
from maya.train.failure import OutOfMemory
from maya.train.memory.steps import Order, Steps, synthetic
from tests import tiny, tiny_zipformer_training

# 4 GB for the model, then 0.1 GB for each frame of 80 ms.
MEASURED = MemoryConfig(limit="auto", max_bytes=44e9, fixed=4e9, frame=1e8 / 3)


def _utterances() -> Any:
    rng = np.random.default_rng(0)
    return SimpleNamespace(durations=rng.uniform(1.0, 16.0, 500), token_counts=rng.integers(1, 60, 500))


def _advice(run: Path, monkeypatch: pytest.MonkeyPatch, result: MemoryConfig | MayaError, **plan: Any) -> str:
    exp = tiny.experiment()
    exp.data.plan = PlanConfig(**({"max_seconds": 200.0} | plan))
    calls = []

    def measure(plan: PlanConfig, *_: Any, **settings: Any) -> PlanConfig:
        calls.append((plan.memory.limit, settings["seconds"]))
        if isinstance(result, MayaError):
            raise result
        return replace(plan, memory=result)

    monkeypatch.setattr(memory, "with_memory", measure)
    accelerator: Any = SimpleNamespace(device=torch.device("cuda"), mixed_precision="bf16")
    error = OutOfMemory([synthetic(12, 16.0, 9, 20)], 3, exp, accelerator.device)
    said = advice(exp, _utterances(), run, accelerator, error)
    assert calls == ([("auto", pytest.approx(16.0, abs=0.2))] if exp.data.plan.memory.limit == "off" else [])
    return said


def test_advice_uses_the_measured_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _advice(tmp_path, monkeypatch, MEASURED)
    # 40 GB hold 1200 frames: 96 s, or less for short utterances. So 200 s need three parts.
    assert re.search(r"12 utterances × 16\.0 s, 9 tokens; (8[5-9]|9[0-6]) s fit, as measured since", said)
    assert "data.plan.max_seconds=66.6 train.accumulate=3 (still 200 s of audio a step: 66.6 × 3)" in said
    utterances, cfg = _utterances(), PlanConfig(max_seconds=66.6)
    plan = BatchPlan(utterances.durations, utterances.token_counts, np.zeros(500, np.int16), cfg)
    for rows in plan.epoch(0):
        frames = Caps(cfg).frames(utterances.durations[rows].max())
        assert MEASURED.bytes(len(rows), frames, utterances.token_counts[rows].max()) <= 44e9


def test_advice_if_measuring_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _advice(tmp_path, monkeypatch, replace(MEASURED, max_bytes=400e9))
    assert "such a batch fits: is something else on the GPU?" in said and "max_seconds=100" in said
    said = _advice(tmp_path, monkeypatch, MayaError("one utterance of 16.0 s needs 9 GB"))
    assert "train.accumulate=2" in said and "measured since: one utterance of 16.0 s needs 9 GB" in said
    said = _advice(tmp_path, monkeypatch, MEASURED, memory=MEASURED)
    assert "or give a data.plan.memory.safety below 0.9" in said and "measured since" not in said
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-0000002.pt").touch()
    assert "give the run a --name of its own" in _advice(tmp_path, monkeypatch, MEASURED)


def _zipformer() -> tuple[SpeechModelConfig, TrainConfig]:
    return presets.zipformer_low_resource(), tiny_zipformer_training.experiment().train


def _lact() -> tuple[SpeechModelConfig, TrainConfig]:
    return hybrid(features=LogMelConfig(num_mels=40), encoder=lact_tiny()), TrainConfig()


@pytest.mark.slow
@pytest.mark.parametrize("preset", [_zipformer, _lact])
def test_memory_of_other_encoders_is_measured(preset: Any) -> None:
    model, train = preset()
    model.vocab_size, model.languages = 40, ("en",)
    order = Order(model=to_dict(model), train=to_dict(train), device="cpu", bf16=False)
    with Steps(order) as steps:
        small, large = (steps.peak(n, 4.0, 12) for n in (1, 16))
    assert small is not None and large is not None
    assert large - small > 20e6  # 15 utterances of 100 frames and more, in bytes
