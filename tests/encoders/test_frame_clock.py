"""FrameClock against the modules: its frame counts equal those of features and encoder."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maya.encoders import FastConformerConfig, FrameClock, LaCTConfig
from maya.features import FbankConfig, LogMelConfig
from tests import tiny_zipformer

SIZES: dict[str, Any] = {"d_model": 16, "n_layers": 1, "n_heads": 2, "subsampling_channels": 4}
ENCODERS: dict[str, Any] = {
    "FastConformer": FastConformerConfig(**SIZES),
    "causal FastConformer": FastConformerConfig(**SIZES, causal_downsampling=True, subsampling_factor=4),
    "LaCT": LaCTConfig(**SIZES, ff_dim=16, fast_heads=2),
    "Zipformer": tiny_zipformer.encoder(),
    "Zipformer at 50 Hz": tiny_zipformer.encoder(output_downsampling=1),
}
FEATURES: dict[str, Any] = {
    "logmel": LogMelConfig(), "legacy": LogMelConfig(legacy=True), "fbank": FbankConfig(),
    "8 kHz": FbankConfig(sample_rate=8000),
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("features", FEATURES)
def test_frame_counts_equal_the_modules(encoder: str, features: str) -> None:
    front, model = FEATURES[features].build().eval(), ENCODERS[encoder].build().eval()
    clock = model.clock(FEATURES[features])
    samples = torch.tensor([0, 1, 79, 80, 159, 160, 1279, 1281, 5999])
    with torch.no_grad():
        feats, feat_lens = front(torch.randn(len(samples), 5999) / 10, samples)
        lens = model(feats, feat_lens).lens
    assert torch.equal(clock.frames(samples), lens)
    assert clock.frames(samples.numpy()).tolist() == lens.tolist()
    assert [clock.frames(n) for n in samples.tolist()] == lens.tolist()
    rate = FEATURES[features].sample_rate
    assert clock.frames_of(samples.numpy() / rate).tolist() == lens.tolist()
    assert clock.seconds == pytest.approx(0.01 * ENCODERS[encoder].subsampling_factor) and clock.offset == 0


@pytest.mark.parametrize(
    ("samples", "fastest", "frames"), [(16000, 1.0, 13), (16000, 1.25, 10), (1279, 1.0, 1), (0, 1.0, 0)]
)
def test_frames_after_subsampling(samples: int, fastest: float, frames: int) -> None:
    clock = FrameClock(LogMelConfig(), FastConformerConfig())
    assert clock.frames_of(np.array([samples / 16000]), fastest).tolist() == [frames]


@given(st.integers(0, 10**6), st.sampled_from([1.0, 1.1, 0.9, 1.25]), st.sampled_from([4, 8]))
def test_frames_of_durations_equal_frames_of_samples(samples: int, fastest: float, factor: int) -> None:
    clock = FrameClock(LogMelConfig(), FastConformerConfig(subsampling_factor=factor))
    expected = clock.frames(int(np.floor(samples / fastest)))
    assert clock.frames_of(np.array([samples / 16000]), fastest).tolist() == [expected]
