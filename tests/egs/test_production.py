"""The production recipe has its specified settings at every size."""

import importlib

import pytest

from egs.indic12 import fastconformer_tdt_ctc_1b
from maya.config import to_dict
from maya.heads import TransducerConfig
from maya.recipes.experiment import Experiment
from maya.train.config import check
from maya.train.optimizers import schedule


def test_flagship_settings() -> None:
    exp = fastconformer_tdt_ctc_1b.experiment()
    model, train = exp.model, exp.train
    assert (exp.tokenizer.vocab_size, exp.tokenizer.model_type) == (32_768, "bpe")
    assert (model.encoder.n_layers, model.encoder.d_model) == (42, 1024)
    transducer, ctc = model.head("transducer", TransducerConfig), model.heads["ctc"]
    assert (transducer.predictor.layers, transducer.predictor.hidden, transducer.joint.hidden) == (
        2,
        640,
        640,
    )
    assert (transducer.loss, transducer.durations) == ("tdt", (0, 1, 2, 3, 4))
    assert (transducer.sigma, transducer.omega, transducer.weight) == (0.02, 0.1, 0.7)
    assert (ctc.weight, ctc.ramp_steps) == (0.3, 3_000)
    assert (model.language_embedding, model.language_init) == (True, 0.02) and model.language_dropout > 0
    assert model.heads["language"].weight > 0 and len(exp.languages) == 12
    assert train.freeze == ("encoder",)
    assert (train.freeze_steps, train.encoder_lr, train.lr) == (5_000, 2e-5, 1e-3)
    assert (train.betas, train.weight_decay, train.min_lr) == ((0.9, 0.98), 1e-4, 1e-5)
    assert (train.warmup_steps, train.steps, train.accumulate) == (2_000, 200_000, 4)
    assert (train.precision, train.save_every, train.valid_every) == ("bf16", 5_000, 5_000)
    assert train.init_from and train.init_modules == ("encoder",)
    assert exp.data.plan.max_tokens is None and exp.data.plan.max_lattice is None
    check(train, model)
    assert schedule.head_rate(train, 200_000) == schedule.encoder_rate(train, 200_000) == 1e-5


@pytest.mark.parametrize(("size", "layers", "width"), [("110m", 17, 512), ("600m", 24, 1024)])
def test_other_sizes_share_training_settings(size: str, layers: int, width: int) -> None:
    flagship = fastconformer_tdt_ctc_1b.experiment()
    exp: Experiment = importlib.import_module(f"egs.indic12.fastconformer_tdt_ctc_{size}").experiment()
    assert (exp.model.encoder.n_layers, exp.model.encoder.d_model) == (layers, width)
    other, same = to_dict(exp.train), to_dict(flagship.train)
    assert other.pop("init_from") != same.pop("init_from")
    assert other == same and exp.tokenizer == flagship.tokenizer
    transducer = exp.model.head("transducer", TransducerConfig)
    assert transducer.joint.hidden == transducer.predictor.hidden == 640
