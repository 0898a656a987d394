"""A GRU encoder in a user's file outside the checkout, through the whole encoder protocol."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maya.data.plan import MemoryConfig, PlanConfig
from maya.encoders import Encoder
from maya.errors import MayaError
from maya.features import FbankConfig, LogMelConfig
from maya.models.config import with_vocabulary
from maya.models.sizing import count_frames
from maya.models.speech_model import SpeechModel
from maya.recipes import memory
from maya.recipes.cli import main
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.experiment_file import record_file
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from maya.train.memory.steps import Order, Steps
from tests.convert.archives import tokenizer

FILE = '''
"""A GRU over stacked frames."""
from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.encoders import Encoded, Encoder, EncoderConfig, check_hidden, frame_mask
from maya.heads import CTCConfig, TransducerConfig
from maya.models.config import SpeechModelConfig
from maya.ranges import PosInt
from maya.recipes.experiment import Experiment


@config
class GRUConfig(EncoderConfig):
    """`subsampling_factor` frames are stacked, then `n_layers` GRUs run over them."""

    kind: Literal["own_gru"] = "own_gru"
    feat_in: PosInt = 80
    d_model: PosInt = 32
    n_layers: PosInt = 2
    subsampling_factor: PosInt = 4


class GRUEncoder(Encoder, config=GRUConfig):
    def __init__(self, cfg: GRUConfig) -> None:
        super().__init__()
        self.cfg = cfg
        widths = [cfg.feat_in * cfg.subsampling_factor] + [cfg.d_model] * (cfg.n_layers - 1)
        self.layers = nn.ModuleList(nn.GRU(width, cfg.d_model, batch_first=True) for width in widths)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        x = x * frame_mask(x_lens, x.shape[1])[..., None]
        factor = self.cfg.subsampling_factor
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % factor)).unflatten(1, (-1, factor)).flatten(2)
        lens = self.subsampled_lens(x_lens)
        kept, states = frame_mask(lens, x.shape[1])[..., None], [x]
        for layer in self.layers:
            states.append(layer(states[-1])[0])
        return Encoded(states[-1] * kept, lens, {n: states[n] * kept for n in hidden})


def experiment() -> Experiment:
    heads = {"transducer": TransducerConfig(), "ctc": CTCConfig(weight=0.3)}
    exp = Experiment(name="own/gru", languages=("en",))
    exp.model = SpeechModelConfig(encoder=GRUConfig(), heads=heads)
    exp.tokenizer.vocab_size = 20
    return exp
'''


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    assert FILE.count("\n") <= 60
    (tmp_path / "own_gru.py").write_text(FILE)
    return load_experiment(str(tmp_path / "own_gru.py"), [])


@pytest.fixture
def encoder(experiment: Experiment) -> Encoder:
    encoder = experiment.model.encoder.build()
    assert isinstance(encoder, Encoder) and type(encoder).__name__ == "GRUEncoder"
    return encoder.eval()


def test_rows_do_not_depend_on_padding(encoder: Encoder) -> None:
    x, lens = torch.randn(3, 50, 80), torch.tensor([50, 13, 0])
    with torch.no_grad():
        encoded = encoder(x, lens, hidden=(0, 2))
        assert encoded.lens.tolist() == [13, 4, 0]
        for row, n in enumerate([50, 13]):
            alone = encoder(x[row : row + 1, :n], lens[row : row + 1])
            torch.testing.assert_close(encoded.frames[row, : alone.lens], alone.frames[0], rtol=0, atol=1e-6)
    assert not encoded.frames[1, 4:].any()
    assert encoded.hidden[0].shape == (3, 13, 320) and torch.equal(encoded.hidden[2], encoded.frames)
    with pytest.raises(MayaError, match="no hidden layer 3; its layers are 0 to 2"):
        encoder(x, lens, hidden=(3,))


def test_clock_blocks_and_streams(encoder: Encoder) -> None:
    clock = encoder.clock(LogMelConfig())
    assert clock.seconds == 0.04 and clock.frames(16000) == 25
    assert clock.frames(torch.tensor([639, 641, 0])).tolist() == [1, 1, 0]
    assert clock.frames_of(np.array([1.0, 1.1]), speed=1.1).tolist() == [23, 25]
    assert encoder.clock(FbankConfig()).frames(720) == 2  # the last frame begins at half a hop
    assert len(encoder.blocks()) == 2
    assert not encoder.stop_updates()
    with pytest.raises(MayaError, match="an encoder of kind 'own_gru' cannot stream"):
        encoder.stream(1)


def test_plan_and_info(experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--experiment", str(tmp_path / "own_gru.py")]
    report = tmp_path / "plan.json"
    assert main(["plan", *named, "--seconds", "5", "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "encoder layers" in text and "125 encoder" in text
    plan: Any = json.loads(report.read_text())
    expected = 2 * 3 * 32 * (320 + 32 + 32 + 32) * 125 / 5  # three gates of two GRUs
    assert plan["flops_per_audio_second"]["forward"]["encoder layers"] == pytest.approx(expected)
    assert plan["memory"]["no checkpointing"]["kept"]["encoder layers"] > 0

    own = tokenizer()
    cfg = with_vocabulary(experiment.model, own.vocab_size, ("en",))
    assert count_frames(cfg, 5.0) == (500, 125)
    weights = SpeechModel(cfg).state_dict()
    checkpoint = Checkpoint(model_config=cfg, tokenizer=own, weights=weights, step=1, notes={})
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    assert main(["info", str(tmp_path / "best.pt"), *named]) == 0
    text = capsys.readouterr().out
    assert "own_gru with transducer, ctc" in text and "subsampling_factor 4" in text and "40 ms" in text
    assert "an encoder of kind 'own_gru' cannot stream" in text


def test_memory_is_measured_in_a_process_that_imports_the_file(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data.plan.memory.limit` measures training steps in a process of their own."""

    def one_step(plan: PlanConfig, order: Order, cache: Path, *, seconds: float, tokens: int) -> PlanConfig:
        with Steps(order) as steps:
            assert (steps.peak(1, seconds, tokens) or 0) > 1e8
        return replace(plan, memory=MemoryConfig(limit=1.0, max_bytes=1e9, fixed=1.0))

    monkeypatch.setattr(memory, "with_memory", one_step)
    run = tmp_path / "run"
    record_file(run, tmp_path / "own_gru.py")
    experiment.model = with_vocabulary(experiment.model, 20, ("en",))
    experiment.data.plan.memory.limit = 1.0
    utterances: Any = SimpleNamespace(durations=np.array([1.0]), token_counts=np.array([3]))
    plan = memory.plan_within_memory(
        experiment, utterances, run, make_accelerator(experiment.train, cpu=True)
    )
    assert plan.memory.max_bytes == 1e9
