"""The LibriSpeech experiments have the settings and model sizes of icefall's recipe."""

import itertools
import json

import pytest
import torch

from egs.librispeech import zipformer
from maya.config import from_dict, to_dict
from maya.decode.ctc.beam import BeamConfig
from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import possible_methods
from maya.heads import CTCConfig, TransducerConfig
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import build_model, count_parameters
from maya.recipes.experiment import Experiment

SIZES = {
    "small": (2, 1500.0),
    "medium": (4, 1000.0),
    "large": (4, 1000.0),
}  # GPUs, seconds of the transducers
HEADS = ("", "_ctc", "_cr_ctc", "_ctc_aed")
NAMES = [f"{size}{heads}" for size, heads in itertools.product(SIZES, HEADS)]


def all_methods(cfg: SpeechModelConfig) -> list[str]:
    """The decoding methods of a model whose heads are all trained."""
    heads = tuple(cfg.text_heads)
    return possible_methods(cfg, TrainedHeads(heads=heads, trained=heads))


def load(name: str) -> Experiment:
    return getattr(zipformer, name)()


@pytest.mark.parametrize("name", NAMES)
def test_settings_equal_icefall(name: str) -> None:
    exp = load(name)
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(exp)))) == exp
    assert exp.tokenizer.vocab_size == 500 and exp.model.features.num_mels == 80
    train = exp.train
    assert (train.optimizer, train.schedule, train.epochs, train.passes) == ("scaled_adam", "eden", 50, 3)
    assert train.lr == (0.04 if name == "small" else 0.045)
    assert (train.eden.steps, train.eden.epochs, train.eden.warmup_steps) == (7500.0, 3.5, 500.0)
    assert exp.data.speed_perturb == (0.9, 1.0, 1.1)
    assert (exp.data.min_seconds, exp.data.max_seconds) == (1.0, 20.0)
    assert exp.prepare.split.dev == exp.prepare.split.test == 0.0
    masks = exp.model.specaugment
    wide = 2.5 if "cr_ctc" in name else 1.0
    assert (masks.freq_masks, masks.freq_width, masks.time_frames, masks.warp_frames) == (2, 27, 100, 80)
    assert masks.time_masks == round(10 * wide)
    assert masks.time_masks * masks.time_width == pytest.approx(0.15 * wide)
    weights = {head: cfg.weight for head, cfg in exp.model.heads.items()}
    if "ctc" not in name:
        assert weights == {"transducer": 1.0}
        assert exp.model.head("transducer", TransducerConfig).loss == "pruned"
    else:
        assert weights == ({"ctc": 0.2, "attention": 0.8} if "aed" in name else {"ctc": 1.0})
        assert exp.model.head("ctc", CTCConfig).consistency_weight == (0.2 if "cr_ctc" in name else 0.0)


@pytest.mark.parametrize("size", SIZES)
def test_transducers_use_icefall_batch_sizes(size: str) -> None:
    gpus, seconds = SIZES[size]
    exp = load(size)
    assert exp.data.plan.max_seconds == seconds
    batches = 50 * 2900 * 3600 / (gpus * seconds)  # full ones, of 50 epochs
    assert batches < exp.train.steps < 1.3 * batches  # the epochs end it, not the steps


def test_tiny_is_small_and_has_every_head_but_attention() -> None:
    exp = zipformer.tiny()
    cfg = with_vocabulary(exp.model, exp.tokenizer.vocab_size, exp.languages)
    with torch.device("meta"):
        assert count_parameters(build_model(cfg)) < 2_000_000
    can = all_methods(cfg)
    assert can == ["transducer", "alsd", "maes", "modified_beam", "ctc", "ctc_beam"]
    beam = exp.decode.methods["ctc_beam"]
    assert isinstance(beam, BeamConfig) and beam.lm_order == beam.token_bonus == 0  # as in icefall's tables
    aed = load("small_ctc_aed").model
    assert all_methods(aed) == [
        "ctc", "ctc_beam", "attention_rescoring", "attention",
    ]  # fmt: skip


def test_cr_ctc_beside_another_head_has_icefalls_scales() -> None:
    """1 · transducer (or 0.9 · attention) + 0.1 · CTC + 0.02 · consistency, and masks for two views."""
    for name, other, weight in (("transducer_cr_ctc", "transducer", 1.0), ("cr_ctc_aed", "attention", 0.9)):
        model = load(f"large_{name}").model
        ctc = model.head("ctc", CTCConfig)
        assert (model.heads[other].weight, ctc.weight) == (weight, 0.1) and model.views == 2
        assert ctc.weight * ctc.consistency_weight == pytest.approx(0.02)
        assert model.specaugment == load("large_cr_ctc").model.specaugment


def test_musan_augmentation_settings() -> None:
    augment = load("medium").data.augment
    assert not augment.on and augment.clean_share == 0.0  # run.sh --musan turns it on
    assert all(noise.snr_db == (10.0, 20.0) and noise.mixed == (1, 1) for noise in augment.noises.values())
