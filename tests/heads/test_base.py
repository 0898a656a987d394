"""What all heads share: their line in `maya info`, their names, and the labels that a classifier takes."""

from typing import Literal

import pytest
import torch

from maya.config import config
from maya.errors import MayaError
from maya.heads import ClassifyConfig, CTCConfig, HeadConfig, HeadContext
from maya.models.speech_model import build_model
from maya.train.report import SUMMED, Window, part_losses
from maya.train.step import StepStats
from tests import tiny


def test_options_without_a_default_are_described() -> None:
    @config
    class ToneConfig(HeadConfig):
        kind: Literal["test_tone"] = "test_tone"
        tones: tuple[str, ...]
        width: int = 3

    assert ToneConfig(tones=("high", "low")).describe() == "weight 1, tones ('high', 'low')"
    assert ToneConfig(tones=(), width=4, weight=0.5).describe() == "weight 0.5, tones (), width 4"
    assert CTCConfig(dropout=0.1).describe() == "weight 1, dropout 0.1"


@pytest.mark.parametrize("name", ["type", "values", "train", "encoder", "my-head"])
def test_names_that_a_module_cannot_have_are_refused(name: str) -> None:
    cfg = tiny.hybrid(transducer="none")
    cfg.heads = {name: CTCConfig()}
    with pytest.raises(MayaError, match=f"a head cannot be named '{name}'"):
        build_model(cfg)


def test_losses_of_heads_do_not_mix_with_other_sums() -> None:
    """A head may have the name of a sum, such as `tokens`."""
    cfg = tiny.hybrid(transducer="none")
    cfg.heads = {name: CTCConfig() for name in ("tokens", "loss")}
    values = {name: 10.0 for name in SUMMED}
    window = Window()
    for _ in range(2):
        window.add(StepStats(**values, clipped="", stop=False, parts={"tokens": 5.0, "loss": 7.0}), 0.0)
    assert [window.sums[name] for name in SUMMED] == [20.0] * len(SUMMED)
    assert part_losses(build_model(cfg), window, 0) == {"tokens": 0.5, "loss": 0.7}


def test_languages_take_a_language_head() -> None:
    """`Batch.langs` counts the model's languages, not the classes of a classify head."""
    with pytest.raises(MayaError, match="a classify head cannot identify languages"):
        ClassifyConfig(label="language", classes=("hi", "en")).build(HeadContext(dim=4, labels=3, blank=3))


def test_views_belong_to_the_configuration() -> None:
    cfg = tiny.hybrid(transducer="none")
    assert cfg.views == 1 and torch.is_tensor(build_model(cfg).head("ctc").decoder_layers[0].weight)
    cfg.heads["ctc"].consistency_weight = 0.2  # type: ignore[attr-defined]
    assert cfg.views == 2 and build_model(cfg).head("ctc").parts == ("loss", "consistency")
