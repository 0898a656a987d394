"""Tuning a trained model to a few utterances: changed and unchanged weights, and refusals."""

import copy

import pytest
import torch

from maya.data.loading.batch import Batch, make_batch
from maya.errors import MayaError
from maya.models.adapters import is_adapter, plain_name
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes.lact_presets import lact_tiny
from maya.train.tune import TuneConfig, tune
from tests.tiny import experiment

VOCAB = 12


def model_of(encoder: str) -> SpeechModel:
    torch.manual_seed(0)
    cfg = experiment().model
    if encoder == "lact":
        cfg.encoder = lact_tiny(d_model=32, n_layers=2, ff_dim=32, feat_in=cfg.features.num_mels)
    cfg.vocab_size, cfg.languages = VOCAB, ("en", "hi")
    return build_model(cfg).eval()


@pytest.fixture
def batch() -> Batch:
    make = torch.Generator().manual_seed(1)
    audio = [torch.randn(n, generator=make) * 0.1 for n in (16000, 12000)]
    return make_batch(audio, [[1, 2, 3], [4, 5]], [0, 1], ["a", "b"], sample_rate=16000)


def loss(model: SpeechModel, batch: Batch) -> float:
    with torch.inference_mode():
        return float(model.eval()(batch).total.sum())


@pytest.mark.parametrize("encoder", ["fastconformer", "lact"])
@pytest.mark.parametrize("weights", ["all", "lora"])
def test_tuned_copy_learns_and_the_model_is_unchanged(encoder: str, weights: str, batch: Batch) -> None:
    model = model_of(encoder)
    before, randomness = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    tuned = tune(model, batch, TuneConfig(weights=weights, lr=3e-3, steps=6))  # type: ignore[arg-type]
    assert torch.equal(randomness, torch.get_rng_state())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert loss(tuned, batch) < 0.97 * loss(model, batch)
    assert not tuned.training
    changed = {
        plain_name(name)
        for name, now in tuned.state_dict().items()
        if (old := before.get(plain_name(name))) is not None and not torch.equal(old, now)
    }
    assert not any("running_" in name or "num_batches" in name for name in changed)
    if weights == "lora":
        assert not changed
        extra = sum(p.numel() for name, p in tuned.named_parameters() if is_adapter(name))
        assert 0 < extra < 0.5 * sum(p.numel() for p in model.parameters())
    else:
        parts = ("encoder.", "heads.transducer.decoder.", "heads.transducer.joint.", "heads.ctc.")
        assert all(any(name.startswith(part) for name in changed) for part in parts)


def test_statistics_of_torchs_own_batch_norm_stay(batch: Batch) -> None:
    """An encoder of the user's own may have it."""

    class Normalised(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.norm = inner, torch.nn.BatchNorm1d(32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.inner(x).transpose(1, 2)).transpose(1, 2)

    model = model_of("fastconformer")
    model.encoder.layers[0].feed_forward1 = Normalised(model.encoder.layers[0].feed_forward1)
    tuned = tune(model.eval(), batch, TuneConfig(weights="all", steps=1))
    after = tuned.encoder.layers[0].feed_forward1.norm
    assert not after.running_mean.any() and int(after.num_batches_tracked) == 0


@pytest.mark.gpu
def test_random_numbers_of_the_gpu_are_left_as_they_were(batch: Batch) -> None:
    model, before = model_of("fastconformer").cuda(), torch.cuda.get_rng_state()
    tune(model, batch, TuneConfig(weights="all", steps=1))
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_the_same_arguments_give_the_same_model(batch: Batch) -> None:
    model = model_of("lact")
    model.cfg.specaugment.time_masks = 2
    first, second = (tune(model, batch, TuneConfig(steps=2)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_without_a_usable_loss_is_refused() -> None:
    too_short = make_batch(
        [torch.randn(1600)], [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]], [0], ["a"], sample_rate=16000
    )
    model = model_of("fastconformer")
    with pytest.raises(MayaError, match="none of .* can be learnt from"):
        tune(model, too_short, TuneConfig(steps=1))
