"""The LaCT presets: their sizes, and updates within an ordinary utterance."""

import pytest
import torch

from maya.encoders import LaCT
from maya.encoders.lact.config import streaming
from maya.recipes.lact_presets import LACT_PRESETS
from tests.encoders.test_lact import open_gates

MILLIONS = {"lact_tiny": 1, "lact_small": 13, "lact_base": 100, "lact_improved": 200, "lact_large": 500}
COUNTS = {
    "lact_tiny": 974_718,
    "lact_small": 12_901_872,
    "lact_base": 100_520_944,
    "lact_improved": 206_942_928,
    "lact_large": 507_366_304,
}
SEED_SIZES = {"lact_base": (768, 12, 4), "lact_improved": (1024, 18, 8), "lact_large": (1536, 24, 12)}
FORMS = {
    "whole": lambda cfg: cfg,
    "chunk_causal": streaming,
    "causal": lambda cfg: streaming(cfg, order="causal"),
}


def parameters(cfg):
    with torch.device("meta"):
        return sum(p.numel() for p in LaCT(cfg).parameters())


@pytest.mark.parametrize("name", LACT_PRESETS)
def test_preset_sizes(name):
    cfg = LACT_PRESETS[name]()
    count = parameters(cfg)
    assert count == COUNTS[name]
    assert count / 1e6 == pytest.approx(MILLIONS[name], rel=0.05)
    assert parameters(streaming(cfg)) == pytest.approx(count, rel=0.01)
    if name in SEED_SIZES:
        assert (cfg.d_model, cfg.n_layers, cfg.fast_heads) == SEED_SIZES[name]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LACT_PRESETS)
@torch.no_grad()
def test_5_s_of_audio_changes_the_fast_weights(name, form):
    """Every fast weight changes, and that changes the output.

    One layer is enough, because all layers share their plan.
    """
    cfg = FORMS[form](LACT_PRESETS[name](n_layers=1, subsampling_channels=8))
    model = open_gates(LaCT(cfg)).eval()
    x, lens = torch.randn(1, 500, cfg.feat_in), torch.tensor([500])
    (learnt, _), after = model.adapt(x, lens)
    for layer, weights in zip(model.layers, after, strict=True):
        for start, end in zip(layer.mixer.fast.initial(1)[:3], weights[:3], strict=True):
            moved = (end - start).flatten(2).norm(dim=-1) / start.flatten(2).norm(dim=-1)
            assert (moved > 0.01).all(), f"{name}, {form}: {moved}"
    cfg.update_at_test = False
    (before, _), _ = model.adapt(x, lens)
    assert (learnt - before).norm() > 0.02 * before.norm()
