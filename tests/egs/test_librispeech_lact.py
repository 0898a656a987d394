"""LaCT experiments on LibriSpeech: settings, sizes, and fast weights that adapt within 5 s."""

import itertools
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egs.librispeech import lact as lact_experiments
from maya.config import from_dict, to_dict
from maya.data.plan import BatchPlan
from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import possible_methods
from maya.encoders import LaCTConfig
from maya.encoders.lact.fast_weights import plan
from maya.heads import TransducerConfig
from maya.heads.transducer import PredictorConfig, StatelessConfig
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import build_model, count_parameters
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_tiny
from maya.train.config import check
from tests.encoders.test_lact import open_gates

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "egs/librispeech/README.md").read_text()
HEADS = ("ctc", "rnnt", "tdt")
FULL = [
    *(f"{size}_{heads}" for size, heads in itertools.product(("base", "improved", "large"), HEADS)),
    "base_ctc_streaming",
]
NAMES = [*FULL, "tiny"]
SIZES = {"base": (768, 12, 4), "improved": (1024, 18, 8), "large": (1536, 24, 12)}
MEAN_SECONDS = 12.3  # of an utterance of LibriSpeech


def all_methods(cfg: SpeechModelConfig) -> list[str]:
    """The decoding methods of a model whose heads are all trained."""
    heads = tuple(cfg.text_heads)
    return possible_methods(cfg, TrainedHeads(heads=heads, trained=heads))


def load(name: str) -> Experiment:
    return getattr(lact_experiments, name)()


def encoder_of(exp: Experiment) -> LaCTConfig:
    assert isinstance(exp.model.encoder, LaCTConfig)
    return exp.model.encoder


@pytest.mark.parametrize("name", FULL)
def test_recipe_settings(name: str) -> None:
    exp = load(name)
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(exp)))) == exp
    train = exp.train
    check(train, exp.model)
    assert (train.optimizer, train.schedule, train.lr, train.clip) == ("adamw", "cosine", 1e-4, 1.0)
    assert (train.warmup_steps, train.valid_every, train.samples_every) == (2000, 1000, 500)
    assert (train.epochs, train.accumulate) == (0, 1)
    # 40 passes of 960 h in batches of 24 utterances; the training parts have 281 241 of them.
    assert train.steps == round(40 * 960 * 3600 / (24 * MEAN_SECONDS))
    assert train.steps == pytest.approx(40 * 281_241 / 24, rel=0.005)
    assert exp.data.max_seconds == 20.0 and exp.data.speed_perturb == (1.0,)
    assert (exp.tokenizer.vocab_size, exp.model.features.num_mels) == (500, 80)
    assert exp.prepare.split.dev == exp.prepare.split.test == 0.0


@pytest.mark.parametrize(("ranks", "cap"), [(1, 310.0), (2, 157.0), (4, 82.0), (8, 45.0)])
def test_step_has_24_utterances(ranks: int, cap: float) -> None:
    """Uses the caps of the README and durations like LibriSpeech's: most are 12 to 16 s, few are longer.
    Smaller batches per rank fill less of their cap."""
    cfg = load("base_ctc").data.plan
    assert ranks > 1 or cfg.max_seconds == cap
    assert f"--data.plan.max_seconds {cap:g}" in README or ranks == 1
    rng = np.random.default_rng(0)
    durations = np.where(
        rng.random(20_000) < 0.7, rng.normal(14.2, 1.3, 20_000), rng.uniform(1.3, 15, 20_000)
    )
    durations = durations.clip(1.3, 20.0)
    assert durations.mean() == pytest.approx(MEAN_SECONDS, rel=0.02)
    split = replace(cfg, max_seconds=cap)
    tokens = np.ones(len(durations), np.int32)
    stats = BatchPlan(durations, tokens, np.zeros(len(durations), np.int64), split, world_size=ranks).stats(0)
    assert stats.utterances / stats.steps == pytest.approx(24, rel=0.04)
    assert durations.sum() / stats.steps == pytest.approx(24 * MEAN_SECONDS, rel=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_heads_and_decoding_methods(name: str) -> None:
    exp = load(name)
    cfg = with_vocabulary(exp.model, exp.tokenizer.vocab_size, exp.languages)
    with torch.device("meta"):
        count = count_parameters(build_model(cfg))
    claimed = re.search(r"([\d.]+) M\b", getattr(lact_experiments, name).__doc__ or "")
    assert claimed and count == pytest.approx(float(claimed[1]) * 1e6, rel=0.01)
    can = all_methods(cfg)
    heads = "rnnt" if name == "tiny" else name.split("_")[1]
    weights = {head: head_cfg.weight for head, head_cfg in cfg.heads.items()}
    if heads == "ctc":
        assert (weights, exp.decode.method) == ({"ctc": 1.0}, "ctc")
        assert can == ["ctc", "ctc_beam"]
    else:
        assert (weights, exp.decode.method) == ({"transducer": 0.7, "ctc": 0.3}, "transducer")
        transducer = cfg.head("transducer", TransducerConfig)
        assert (transducer.loss, transducer.durations) == (heads, (0, 1, 2, 3, 4))
        assert isinstance(transducer.predictor, PredictorConfig)
        assert can == ["transducer", "alsd", "maes", "modified_beam", "ctc", "ctc_beam"]
    if name in FULL:
        encoder = encoder_of(exp)
        assert (encoder.d_model, encoder.n_layers, encoder.fast_heads) == SIZES[name.split("_")[0]]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_fast_weights_adapt_within_5_s(name: str) -> None:
    """Runs the whole model from the waveform. One layer is enough, because all layers share their plan."""
    exp = load(name)
    encoder = replace(encoder_of(exp), n_layers=1, subsampling_channels=8)
    cfg = with_vocabulary(replace(exp.model, encoder=encoder), 500, exp.languages)
    torch.manual_seed(0)
    model = open_gates(build_model(cfg)).eval()
    audio, lens = 0.1 * torch.randn(1, 80_000), torch.tensor([80_000])
    learnt, enc_lens = model.encode(audio, lens)
    assert int(enc_lens) in (63, 64)  # of 80 ms
    assert any(span.update for span in plan(encoder, int(enc_lens)))
    model.encoder.cfg.update_at_test = False
    as_before, _ = model.encode(audio, lens)
    assert (learnt - as_before).norm() > 0.02 * as_before.norm()


def test_rnnt_with_stateless_predictor() -> None:
    cfg = with_vocabulary(lact(lact_tiny(), "rnnt", mels=40, hidden=64, predictor="stateless"), 80, ("en",))
    transducer = cfg.head("transducer", TransducerConfig)
    assert isinstance(transducer.predictor, StatelessConfig)
    assert transducer.predictor.hidden == transducer.joint.hidden == 64
    with torch.device("meta"):
        assert build_model(cfg).heads["transducer"].decoder.cfg is transducer.predictor
    assert "modified_beam" in all_methods(cfg)


def test_streaming_preset_streams() -> None:
    exp = load("base_ctc_streaming")
    encoder = replace(encoder_of(exp), n_layers=1, subsampling_channels=8)
    assert (encoder.order, encoder.chunk, encoder.window[1]) == ("chunk_causal", 32, -1)
    cfg = with_vocabulary(replace(exp.model, encoder=encoder), 500, exp.languages)
    model = build_model(cfg).eval()
    model.preprocessor.featurizer.stream()  # raises if features need the whole utterance
    model.encoder.stream(1)
    whole = build_model(with_vocabulary(load("tiny").model, 80, ("en",))).eval()
    with pytest.raises(Exception, match="stream"):
        whole.encoder.stream(1)


def test_training_by_steps_is_averaged_over_steps(tmp_path: Path) -> None:
    """run.sh selects epoch and avg only if the run has checkpoints of epochs. A cosine schedule has none."""
    checkpoints = tmp_path / "work" / "lact_tiny" / "checkpoints"
    checkpoints.mkdir(parents=True)
    command = [REPO / "egs/librispeech/run.sh", "--work", tmp_path / "work", "--experiment", "lact:tiny"]
    command += ["--stage", "4", "--stop-stage", "4", "--gpus", "1"]
    env = os.environ | {"BASH_FUNC_maya%%": '() { echo "maya $*"; }'}  # prints commands only

    def run(*options: str) -> str:
        return subprocess.run(
            [*command, *options], env=env, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    assert "maya average" in (by_steps := run()) and "--select" not in by_steps
    (checkpoints / "epoch-0001.pt").touch()
    assert "--select" in run("--epoch", "8")
    assert "--select" not in run("--epoch", "8", "--avg", "2")
