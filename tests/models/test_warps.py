"""The model moves formants as the batch says, in training; features that cannot are refused."""

from dataclasses import replace

import pytest
import torch

from maya.data.loading.batch import make_batch
from maya.errors import MayaError
from maya.features import LogMel
from maya.models.speech_model import SpeechModel, build_model
from tests import tiny


def model() -> SpeechModel:
    cfg = tiny.hybrid()
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    torch.manual_seed(0)
    return build_model(cfg)


def test_warps_of_a_batch_reach_the_features_row_by_row() -> None:
    built, audio = model().eval(), [0.1 * torch.randn(8000), 0.1 * torch.randn(6000)]
    batch = make_batch(audio, [[1, 2], [3]], [0, 0], ["a", "b"], sample_rate=16000)
    warped = replace(batch, warps=torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.2, 1.2]]))
    plain, moved = (built(b).total for b in (batch, warped))
    torch.testing.assert_close(moved[0], plain[0], atol=1e-3, rtol=0)
    assert (moved[1] - plain[1]).abs().item() > 1e-3
    assert warped.to("cpu").warps is not None and batch.to("cpu").warps is None


def test_features_that_cannot_be_warped_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogMel, "warpable", False)
    batch = make_batch([torch.randn(4000)], [[1]], [0], ["a"], sample_rate=16000)
    with pytest.raises(MayaError, match="cannot be warped; set data.augment.warp_prob=0"):
        model()(replace(batch, warps=torch.ones(1, 3)))
