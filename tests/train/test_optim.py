from typing import Literal

import pytest
import torch

from maya.errors import MayaError
from maya.models.speech_model import SpeechModel, build_model
from maya.train.config import TrainConfig, check
from maya.train.optimizers.optim import adamw, make_optimizer, parameter_groups
from maya.train.optimizers.scaled_adam import ScaledAdam
from tests import tiny, tiny_zipformer


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    model = build_model(cfg)
    optimizer = adamw(model, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
    decayed, plain = (
        {id(p) for g in optimizer.param_groups if g["weight_decay"] == decay for p in g["params"]}
        for decay in (0.1, 0.0)
    )
    names = {id(p): n for n, p in model.named_parameters()}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)
    assert not decayed & plain and decayed | plain == set(names)
    for g in optimizer.param_groups:
        assert {names[id(p)].startswith("encoder.") for p in g["params"]} == {g["encoder"]}
    for i in decayed:
        assert names[i].endswith("weight") or "weight_ih" in names[i] or "weight_hh" in names[i], names[i]
        assert "norm" not in names[i] and "embed" not in names[i]
    assert any("pos_bias_u" in names[i] for i in plain) and any("embed" in names[i] for i in plain)


def test_layer_decay_lowers_the_rate_of_lower_layers() -> None:
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    model = build_model(cfg)  # two layers
    groups = parameter_groups(model, 0.1, encoder_layer_decay=0.5)
    names = {id(p): n for n, p in model.named_parameters()}
    scales = {names[id(p)]: g["scale"] for g in groups for p in g["params"]}
    assert len(scales) == len(names) == sum(len(g["params"]) for g in groups)
    for name, scale in scales.items():
        expected = {"encoder.layers.1": 1.0, "encoder.layers.0": 0.5, "encoder.pre_encode": 0.25}
        places = [s for place, s in expected.items() if name.startswith(place)] or [1.0]
        assert scale == pytest.approx(places[0]), name
    for g in groups:
        assert {names[id(p)].startswith("encoder.") for p in g["params"]} == {g["encoder"]}
    assert {g["scale"] for g in parameter_groups(model, 0.1)} == {1.0}


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[bool, int]]:
    return [(g["encoder"], len(g["params"])) for g in optimizer.param_groups]


def test_scaled_adam_has_one_group_without_an_encoder_rate() -> None:
    model = SpeechModel(tiny_zipformer.config())
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    encoder = sum(n.startswith("encoder.") for n in learning)
    together = make_optimizer(model, TrainConfig(optimizer="scaled_adam"))
    assert isinstance(together, ScaledAdam) and _named(together) == [(False, len(learning))]
    for option in ({"encoder_lr": 0.01}, {"freeze": ("encoder",), "freeze_steps": 10}, {"encoder_hold": 10}):
        apart = make_optimizer(model, TrainConfig(optimizer="scaled_adam", **option))
        assert _named(apart) == [(False, len(learning) - encoder), (True, encoder)]
    assert isinstance(make_optimizer(model, TrainConfig()), torch.optim.AdamW)


def test_options_of_another_optimizer_or_schedule_are_refused() -> None:
    model = SpeechModel(tiny_zipformer.config())
    with pytest.raises(MayaError, match="encoder_layer_decay is for train.optimizer=adamw"):
        check(TrainConfig(optimizer="scaled_adam", encoder_layer_decay=0.9), model.cfg)


@pytest.mark.parametrize("kind", ["adamw", "scaled_adam"])
def test_only_the_encoder_learns(kind: Literal["adamw", "scaled_adam"]) -> None:
    """All heads are frozen, and the encoder has a rate of its own."""
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages, cfg.language_embedding = 20, ("en", "hi"), False
    model = build_model(cfg)
    model.freeze(tuple(cfg.heads))
    optimizer = make_optimizer(model, TrainConfig(optimizer=kind, freeze=tuple(cfg.heads), encoder_lr=1e-3))
    assert all(group["encoder"] and group["params"] for group in optimizer.param_groups)
