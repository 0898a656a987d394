"""A training step makes the host wait for the device only where docs/training.md says so.

The device is simulated, see tests/no_waiting.py. Losses and fast weights take Triton, in its interpreter.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.data.loading.batch import Batch, make_batch
from maya.encoders import LaCTConfig
from maya.encoders.conformer import fastconformer
from maya.features.noise import WhiteNoiseConfig
from maya.features.specaugment import SpecAugmentConfig, lhotse
from maya.heads import ClassifyConfig, CTCConfig, LanguageConfig
from maya.kernels import checks
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.optimizers.optim import make_optimizer
from maya.train.step import Step, train_step
from tests import tiny, tiny_zipformer
from tests.no_waiting import no_waiting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the device is simulated on a CPU")
DEVICE = torch.device("cpu")  # an object, unlike the string "cpu", is the simulated device
# torch.stft copies the window inside the device, which the simulation takes for a copy from the host.
STFT = ("maya/features/logmel.py",)
NOISE = WhiteNoiseConfig(probability=0.5)


@pytest.fixture(autouse=True)
def _branches_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The backend "auto" is Triton, and no batch is packed."""
    choose = checks.choose_backend

    def triton(op: str, requested: str, sample: Tensor, *names: Any) -> str:
        fast = requested == "auto" and sample.dtype != torch.float64
        return choose(op, "triton" if fast else requested, sample, *names)

    for name, module in list(sys.modules.items()):
        if name.startswith(("maya.kernels", "maya.losses")) and hasattr(module, "choose_backend"):
            monkeypatch.setattr(module, "choose_backend", triton)
    monkeypatch.setattr(fastconformer, "rows_to_pack", lambda *_, **__: None)
    yield


def fastconformer_tdt_ctc() -> SpeechModelConfig:
    cfg = tiny.hybrid(specaugment=SpecAugmentConfig(), language_dropout=0.5, attention_weight=0.2)
    heads: dict[str, Any] = cfg.heads
    heads["transducer"].joint.dropout, heads["transducer"].omega = 0.1, 0.5
    heads["emotion"] = ClassifyConfig(label="emotion", classes=("happy", "sad"))
    heads["language"] = LanguageConfig()
    cfg.noise = NOISE
    encoder: Any = cfg.encoder
    encoder.layer_drop = encoder.dropout = encoder.dropout_att = encoder.dropout_pre_encoder = 0.1
    return cfg


def zipformer_pruned_cr_ctc() -> SpeechModelConfig:
    cfg = tiny_zipformer.config(ctc_weight=0.3, cr_ctc_weight=0.2, specaugment=lhotse(time_mask_ratio=2.5))
    cfg.heads["transducer"].pruned.am_scale = 0.1  # type: ignore[attr-defined]
    cfg.noise = NOISE
    return cfg


def lact_ctc() -> SpeechModelConfig:
    encoder = LaCTConfig(
        d_model=16, n_layers=1, n_heads=2, subsampling_channels=4, ff_dim=16, fast_heads=2,
        order="chunk_causal", window=(8, 0), chunk=4, momentum=True, orthogonalize=True,
    )  # fmt: skip
    cfg = tiny.hybrid(encoder=encoder, transducer="none", specaugment=SpecAugmentConfig())
    cfg.heads = {"ctc": CTCConfig()}
    return cfg


MODELS: dict[str, Callable[[], SpeechModelConfig]] = {
    "FastConformer, TDT and CTC": fastconformer_tdt_ctc,
    "Zipformer, pruned RNN-T and CR-CTC": zipformer_pruned_cr_ctc,
    "LaCT, CTC": lact_ctc,
}


def some_batch(seed: int = 0) -> Batch:
    """3 utterances of 0.2 to 0.4 s."""
    make = torch.Generator().manual_seed(seed)
    audio = [torch.randn(n, generator=make) * 0.1 for n in (6000, 3000, 4500)]
    labels = {"emotion": ["happy", None, "sad"]}
    tokens = [[3, 7, 7, 1], [5], [2, 9]]
    return make_batch(audio, tokens, [0, 1, -1], ["a", "b", "c"], sample_rate=16000, labels=labels)


def model_of(name: str) -> SpeechModel:
    model = build_model(MODELS[name]()).train()
    model.begin_step(5000, 5000.0)
    return model


def backward(model: SpeechModel, batch: Batch) -> None:
    losses = model(batch)
    losses.total.masked_fill(~losses.total.isfinite(), 0.0).sum().backward()


@pytest.mark.parametrize("name", MODELS)
def test_a_step_waits_for_nothing_but_the_first_comparison_of_lengths(name: str) -> None:
    model, batch = model_of(name), some_batch()
    with no_waiting(model, allowed=STFT) as first:
        backward(model, batch.to(DEVICE, non_blocking=True))
    with no_waiting(model, allowed=STFT) as waits:
        backward(model, batch.to(DEVICE, non_blocking=True))
    assert waits == []
    assert [wait.split(":")[0] for wait in first] == ["cpu at maya/models/speech_model.py"]


def test_the_trainer_reads_twice_a_step(tmp_path: Path) -> None:
    """The finite check with the gradients' norm, and the sums of the losses; of two batches together."""
    cfg = TrainConfig(warmup_steps=0, precision="fp32", threads=1)
    model, accelerator = model_of("FastConformer, TDT and CTC"), make_accelerator(cfg, cpu=True)
    tools = Step(model, make_optimizer(model, cfg), accelerator, tmp_path)
    train_step(tools, [some_batch()], cfg, State())
    # Omega is drawn on the host: the device of the trainer's generator is an object too.
    with no_waiting(model, allowed=(*STFT, "kernels/tdt/fused.py")) as waits:
        train_step(tools, [some_batch(1), some_batch(2)], cfg, State())
    files = [wait.split(":")[0] for wait in waits]
    assert files == ["tolist at maya/train/failure.py", "tolist at maya/train/step.py"]
