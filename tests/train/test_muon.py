"""Muon: orthogonal updates of the encoder's matrices, AdamW for the rest, exact resumption."""

import copy
from typing import cast

import pytest
import torch

from maya.encoders import FastConformerConfig
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.train.config import TrainConfig, check
from maya.train.optimizers.muon import Muon, orthogonal
from maya.train.optimizers.optim import make_optimizer
from maya.train.sharding import refuse
from tests import tiny


def model() -> SpeechModel:
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    cast(FastConformerConfig, cfg.encoder).d_model = 64
    torch.manual_seed(0)
    return SpeechModel(cfg)


def optimizer(of: SpeechModel) -> Muon:
    made = make_optimizer(of, TrainConfig(optimizer="muon", lr=0.01, weight_decay=0.0))
    assert isinstance(made, Muon)
    return made


def fill_gradients(of: SpeechModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in of.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 40, 24), (1, 16, 16)])
def test_updates_keep_the_singular_vectors_and_level_the_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.2, 1.0, s.shape[1])
    result = orthogonal(u * values @ vh)
    leveled = u.mT @ result @ vh.mT
    diagonal = leveled.diagonal(dim1=1, dim2=2)
    assert (leveled - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3


def test_wide_matrices_of_the_encoder_learn_by_muon_and_all_else_as_with_adamw() -> None:
    first_model, second_model = model(), model()
    muon, adamw = optimizer(first_model), make_optimizer(second_model, TrainConfig(lr=0.01, weight_decay=0.0))
    named = {id(p): name for name, p in first_model.named_parameters()}
    groups = muon.param_groups
    assert sorted(named) == sorted(id(p) for g in groups for p in g["params"]), "each once"
    matrices = {named[id(p)] for g in groups if g["muon"] for p in g["params"]}
    assert {"encoder.layers.0.feed_forward1.linear1.weight", "encoder.pre_encode.out.weight"} <= matrices
    assert not any("depthwise" in n or n.startswith("heads.") or "norm" in n for n in matrices)
    for seed in (1, 2):
        for of, opt in ((first_model, muon), (second_model, adamw)):
            fill_gradients(of, seed)
            opt.step()
    for (name, p), q in zip(first_model.named_parameters(), second_model.parameters(), strict=True):
        assert torch.equal(p, q) == (name not in matrices), name
    assert muon.param_groups == groups


def test_a_step_has_the_size_of_the_rate() -> None:
    of = model()
    opt = optimizer(of)
    before = copy.deepcopy(of)
    fill_gradients(of, 1)
    opt.step()
    name = "encoder.layers.0.feed_forward1.linear1.weight"
    moved = (of.get_parameter(name) - before.get_parameter(name)).square().mean().sqrt()
    assert 0.1 * 0.01 < moved < 0.3 * 0.01, "0.2 of the rate, as AdamW's usual steps"


def test_a_resumed_optimizer_takes_the_same_steps() -> None:
    straight = model()
    first = optimizer(straight)
    fill_gradients(straight, 1)
    first.step()
    resumed = copy.deepcopy(straight)
    second = optimizer(resumed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for of, opt in ((straight, first), (resumed, second)):
        fill_gradients(of, 2)
        opt.step()
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_muon_cannot_do_is_refused() -> None:
    cfg = tiny.experiment().model
    with pytest.raises(MayaError, match="l2_sp"):
        check(TrainConfig(optimizer="muon", l2_sp=0.1), cfg)
    with pytest.raises(MayaError, match="whole matrices"):
        refuse(cfg, TrainConfig(optimizer="muon"), shares=False)
