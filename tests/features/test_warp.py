"""Formant warps: a tone moves as stated, in both kinds of features, row by row."""

import math

import pytest
import torch
from torch import Tensor

from maya.data.loading import augment
from maya.features import FbankConfig, Features, LogMelConfig
from maya.features.warp import KNOTS_HZ, source_hz, warped_filters

KINDS = {"logmel": LogMelConfig(normalize="none", dither=0.0), "fbank": FbankConfig()}


@pytest.fixture(params=KINDS)
def features(request: pytest.FixtureRequest) -> Features:
    return KINDS[request.param].build()


def tone(hertz: float, seconds: float = 0.5) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * 16000)) / 16000)


def alike(factor: float, rows: int = 1) -> Tensor:
    return torch.full((rows, len(KNOTS_HZ)), factor)


def test_the_draw_has_a_factor_for_each_knot() -> None:
    assert len(KNOTS_HZ) == augment._WARPS


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
@pytest.mark.parametrize("hertz", [400.0, 1000.0, 2200.0, 3500.0])
def test_a_tone_moves_by_the_factor(features: Features, factor: float, hertz: float) -> None:
    lens = torch.tensor([8000])
    warped = features(tone(hertz)[None], lens, warps=alike(factor))[0][0, 25]
    moved = features(tone(hertz * factor)[None], lens)[0][0, 25]
    assert abs(int(warped.argmax()) - int(moved.argmax())) <= 1
    assert float(warped.max()) == pytest.approx(float(moved.max()), abs=0.7)  # natural logarithm


def test_each_knot_moves_its_own_formant(features: Features) -> None:
    lens, warps = torch.tensor([8000]), torch.tensor([[1.2, 1.0, 0.85]])
    for hertz, factor in zip(KNOTS_HZ, warps[0].tolist(), strict=True):
        warped = features(tone(hertz)[None], lens, warps=warps)[0][0, 25]
        moved = features(tone(hertz * factor)[None], lens)[0][0, 25]
        assert abs(int(warped.argmax()) - int(moved.argmax())) <= 1


def test_factors_of_one_change_nothing(features: Features) -> None:
    torch.manual_seed(0)
    audio, lens = 0.1 * torch.randn(3, 8000), torch.tensor([8000, 5000, 160])
    plain, plain_lens = features(audio, lens)
    warped, warped_lens = features(audio, lens, warps=alike(1.0, 3))
    torch.testing.assert_close(warped, plain, atol=2e-3, rtol=0)
    assert torch.equal(warped_lens, plain_lens)


def test_a_row_does_not_depend_on_its_batch(features: Features) -> None:
    torch.manual_seed(0)
    audio, lens = 0.1 * torch.randn(3, 8000), torch.tensor([8000, 5000, 160])
    warps = torch.tensor([[1.1, 1.0, 0.9], [0.8, 0.85, 0.9], [1.2, 1.2, 1.2]])
    together = features(audio, lens, warps=warps)[0]
    for i, n in enumerate(lens.tolist()):
        alone = features(audio[i : i + 1, :n], lens[i : i + 1], warps=warps[i : i + 1])[0][0]
        frames = int(features.feat_lens(lens[i]))
        torch.testing.assert_close(together[i, :frames], alone[:frames], atol=2e-3, rtol=0)


def test_the_axis_keeps_its_ends_and_its_order() -> None:
    hz = torch.linspace(0, 8000, 257)
    source = source_hz(hz, torch.tensor([[0.8, 0.8, 0.8], [1.25, 1.25, 1.25], [1.25, 0.8, 1.25]]), 8000.0)
    assert torch.equal(source[:, 0], torch.zeros(3))
    torch.testing.assert_close(source[:, -1], torch.full((3,), 8000.0))
    assert (source.diff(dim=1) >= 0).all()


def test_filters_read_the_warped_spectrum() -> None:
    """The product with the warped filters is that of the plain filters with the spectrum, interpolated."""
    torch.manual_seed(0)
    filters, power = torch.rand(5, 65, dtype=torch.float64), torch.rand(65, dtype=torch.float64)
    warps = torch.tensor([[0.9, 1.0, 1.15]], dtype=torch.float64)
    place = source_hz(torch.linspace(0, 4000, 65, dtype=torch.float64), warps, 4000.0)[0] / 4000 * 64
    low = place.floor().long().clamp(max=63)
    moved = torch.lerp(power[low], power[low + 1], place - low)
    torch.testing.assert_close(warped_filters(filters, warps, 4000.0)[0] @ power, filters @ moved)
