"""What a model takes on paper: its parameters exactly, its operations and memory against counts and peaks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from egs.indic12 import fastconformer_tdt_ctc_1b
from maya.encoders import LaCTConfig
from maya.encoders.lact.fast_weights import FastWeightConfig
from maya.encoders.zipformer.regularizers import set_batch_count
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoderConfig
from maya.heads.classify import ClassifyConfig
from maya.heads.ctc import CTCConfig
from maya.models.config import with_vocabulary
from maya.models.sizing import (
    Training,
    count_frames,
    flops,
    gpu_named,
    largest_batch,
    memory,
    meta_model,
    parameters,
    with_checkpointing,
)
from maya.models.sizing.encoder import encoder_flops, encoder_memory, feature_frames
from maya.models.speech_model import build_model, count_parameters
from maya.recipes.lact_presets import lact, lact_tiny
from maya.recipes.presets import fastconformer_tdt_ctc
from maya.train.memory.steps import synthetic
from tests import tiny_zipformer


def small(vocab: int = 300, **sizes):  # noqa: ANN003, ANN201
    settings = {"d_model": 64, "n_layers": 3, "n_heads": 4, "subsampling_channels": 16, "hidden": 48} | sizes
    cfg = fastconformer_tdt_ctc(**settings)
    return with_vocabulary(cfg, vocab, ("en",))


def large():  # noqa: ANN201
    exp = fastconformer_tdt_ctc_1b.experiment()
    return with_vocabulary(exp.model, exp.tokenizer.vocab_size, exp.languages)


@pytest.fixture(scope="module")
def flagship() -> tuple:
    cfg = large()
    return cfg, meta_model(cfg)


def test_parameter_count_equals_the_model(flagship: tuple) -> None:
    cfg, model = flagship
    actual = parameters(model)
    assert sum(actual.values()) == count_parameters(model)
    assert actual["encoder layers"] == count_parameters(model.encoder.layers)
    assert actual["subsampling"] == count_parameters(model.encoder.pre_encode)
    assert actual["transducer joint"] == count_parameters(model.heads["transducer"].joint)
    assert actual["ctc head"] == 1025 * (cfg.vocab_size + 1)
    assert 1.0e9 < actual["encoder layers"] < 1.1e9
    assert next(model.parameters()).is_meta


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("seconds", [3.0, 7.9])
def test_operations_equal_the_flop_counter(factor: int, seconds: float) -> None:
    """For a real forward pass. The output of the joint is counted separately; `encode` does not include it.

    In training mode, because torch counts the operations of the inference kernel of attention twice.
    """
    cfg = small(subsampling_factor=factor)
    model = build_model(cfg).train()
    batch = synthetic(2, seconds, 9, cfg.vocab_size)
    with FlopCounterMode(display=False) as counter:
        enc, _ = model.encode(batch.audio, batch.audio_lens)
        encoder = counter.get_total_flops()
        model.heads["ctc"](enc)
        head = counter.get_total_flops() - encoder
        transducer = model.heads["transducer"]
        transducer.joint(enc, torch.zeros(2, 10, transducer.cfg.predictor.hidden))
        joint = counter.get_total_flops() - encoder - head
    said = flops(cfg, seconds, 9, batch=2).forward
    assert 2 * (said["features"] + said["subsampling"] + said["encoder layers"]) == pytest.approx(
        encoder, rel=0.01
    )
    assert 2 * said["ctc head"] == pytest.approx(head, rel=1e-6)
    assert 2 * (said["joint projections"] + said["joint output and loss"]) == pytest.approx(joint, rel=1e-6)


def test_training_costs_three_forward_passes_or_four_with_checkpointing() -> None:
    cfg = small()
    once = flops(cfg, 5.0, 20)
    assert once.training["encoder layers"] == pytest.approx(3 * once.forward["encoder layers"])
    again = flops(with_checkpointing(cfg, True), 5.0, 20)
    assert again.training["encoder layers"] == pytest.approx(4 * once.forward["encoder layers"])
    assert again.training["ctc head"] == once.training["ctc head"]
    joint = "joint output and loss"
    assert 1.2 < once.training[joint] / once.forward[joint] < 2.3  # the backward visits a share of the cells


def test_layer_memory_equals_what_autograd_saves() -> None:
    """At a width it was not counted at, against the tensors that two real encoders save."""
    cfg = replace(small(d_model=96, dropout=0.1).encoder, n_layers=3)
    kept = encoder_memory(cfg, cuda=False, bf16=False).kept
    batch, frames = 3, 60
    third, first = (_saved(replace(cfg, n_layers=n), batch, frames) for n in (3, 1))
    assert kept.bytes(batch, frames, 0) == pytest.approx((third - first) * 1.5, rel=0.03)


def test_cuda_keeps_less_than_half_of_a_cpu(flagship: tuple) -> None:
    cfg = replace(flagship[0].encoder, activation_checkpointing=False)
    cpu, cuda = (encoder_memory(cfg, cuda=on, bf16=on).kept for on in (False, True))
    assert 0.4 < cuda.frame / cpu.frame < 0.65
    assert cuda.pair / cfg.n_layers == pytest.approx(2 * cfg.n_heads, rel=0.05)  # the bias, in bf16
    checkpointed = replace(cfg, activation_checkpointing=True)
    inputs = encoder_memory(checkpointed, cuda=True, bf16=True).kept.frame / cfg.n_layers
    assert inputs == pytest.approx(4 * cfg.d_model, rel=0.01)  # fp32: norms put it out


def test_memory_adds_up_and_grows(flagship: tuple) -> None:
    cfg, model = flagship
    count = count_parameters(model)
    training = Training(cuda=True, bf16=True, hold_gradients=True)
    plain, checkpointed = (memory(with_checkpointing(cfg, on), training, model) for on in (False, True))
    assert plain.base.fixed == pytest.approx((4 + 8 + 4 + 2) * count + 2e9)
    assert plain.host["average of the weights (fp64)"].fixed == 8 * count
    assert checkpointed.bytes(64, 250, 80) < 0.5 * plain.bytes(64, 250, 80)
    assert plain.bytes(9, 250, 80) > plain.bytes(8, 250, 80) < plain.bytes(8, 251, 80)
    for actual in (plain, checkpointed):
        batch = largest_batch(actual, 120e9, 250, 80, seconds=20.0)
        assert actual.bytes(batch, 250, 80) <= 120e9 < actual.bytes(batch + 1, 250, 80)
    without = memory(cfg, Training(cuda=True, bf16=True), model)
    assert without.base.fixed == pytest.approx(plain.base.fixed - 4 * count)


def test_memory_has_no_lattice_of_logits() -> None:
    """Per utterance the fused loss adds some bytes per cell, whatever the vocabulary; CTC grows with it."""
    training = Training(cuda=True, bf16=True)
    few, many = (memory(small(vocab), training) for vocab in (300, 30_000))
    assert few.kept["lattice"] == many.kept["lattice"] and few.kept["lattice"].node < 200
    assert many.kept["ctc head and loss"].frame == pytest.approx(8 * 30_001)


def test_errors_name_the_problem() -> None:
    with pytest.raises(MayaError, match="unknown GPU 'h300'; expected one of .*h200"):
        gpu_named("h300")
    assert gpu_named("H200").memory_gb == 141
    actual = memory(small(), Training(cuda=True, bf16=True))
    with pytest.raises(
        MayaError, match=r"one utterance of 30.0 s with 90 tokens needs \d\.\d GB where 1.0 GB"
    ):
        largest_batch(actual, 1e9, count_frames(small(), 30.0)[1], 90, seconds=30.0)


def test_recorded_comparison_is_within_its_tolerance(repo: Path) -> None:
    rows = json.loads((repo / "docs/benchmarks/sizing.json").read_text())["rows"]
    assert len({json.dumps(row["case"]) for row in rows}) >= 4
    plain = [row["error"] for row in rows if row["case"]["accumulate"] == 1]
    assert len(plain) >= 12 and max(map(abs, plain)) <= 0.15


ENCODERS = {
    "zipformer": tiny_zipformer.encoder(dims=(32, 64, 48), unmasked_dims=(16, 32, 32), ff_dims=(64, 64, 64)),
    "causal zipformer": tiny_zipformer.encoder(causal=True),
    "zipformer, fast weights": tiny_zipformer.encoder(fast_weights=FastWeightConfig(fast_heads=2)),
    "lact": lact_tiny(feat_in=80, n_layers=3),
    "lact, passes": replace(lact_tiny(feat_in=80, n_layers=3), order="passes", chunk=32, passes=2),
    "fast weights": replace(small().encoder, fast_weights=FastWeightConfig(fast_heads=4)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_operations_of_other_encoders_equal_the_flop_counter(name: str) -> None:
    cfg = ENCODERS[name]
    if isinstance(cfg, LaCTConfig):  # with dropout attention is plain products: torch counts no others here
        cfg = replace(cfg, dropout_att=0.1)
    encoder = cfg.build().train(isinstance(cfg, LaCTConfig))
    for length in (647, 1607):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder(torch.randn(2, length, 80), torch.full((2,), length))
        assert 2 * sum(encoder_flops(cfg, length, 2)) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", ["zipformer", "zipformer, fast weights"])
def test_zipformer_memory_equals_what_autograd_saves(name: str) -> None:
    """Of the whole encoder, at sizes that it was not counted at."""
    cfg = ENCODERS[name]
    actual = encoder_memory(cfg, cuda=False, bf16=False)
    for batch, frames in ((2, 40), (3, 64)):
        kept = (actual.kept + actual.front).bytes(batch, frames, 0)
        assert kept == pytest.approx(_saved(cfg, batch, frames), rel=0.1)


@pytest.mark.parametrize("name", ["lact", "lact, passes", "fast weights"])
def test_memory_of_equal_layers_equals_what_autograd_saves(name: str) -> None:
    cfg = ENCODERS[name]
    actual = encoder_memory(cfg, cuda=False, bf16=False)
    for batch, frames in ((2, 256),):
        said = actual.kept.bytes(batch, frames, 0) / cfg.n_layers
        first, third = (_saved(replace(cfg, n_layers=n), batch, frames) for n in (1, 3))
        assert said == pytest.approx((third - first) / 2, rel=0.05)


def _saved(cfg: Any, batch: int, frames: int) -> int:
    """Bytes that an encoder in training saves for the backward pass, its weights apart."""
    torch.manual_seed(0)
    encoder = cfg.build().train()
    set_batch_count(encoder, 1e9)
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    blocks: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        block = x.untyped_storage()
        if block.data_ptr() not in own:
            blocks[block.data_ptr()] = block.nbytes(), x
        return x

    length = feature_frames(cfg, frames)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        encoder(torch.zeros(batch, length, cfg.feat_in), torch.full((batch,), length))
    return sum(size for size, _ in blocks.values())


@pytest.mark.parametrize("kind", ["zipformer", "lact"])
def test_plans_of_other_models_add_up(kind: str) -> None:
    cfg = tiny_zipformer.config() if kind == "zipformer" else lact(lact_tiny(), "tdt", mels=40, hidden=32)
    cfg = with_vocabulary(cfg, 20, ("en",))
    model = meta_model(cfg)
    actual = parameters(model)
    assert sum(actual.values()) == count_parameters(model)
    front = model.encoder.encoder_embed if kind == "zipformer" else model.encoder.pre_encode
    assert actual["subsampling"] == count_parameters(front)
    assert actual["encoder layers"] == count_parameters(model.encoder) - actual["subsampling"]
    _, frames = count_frames(cfg, 4.0)
    batch = synthetic(2, 4.0, 9, 20, 1)
    assert build_model(cfg).eval().encode(batch.audio, batch.audio_lens).lens.tolist() == [frames, frames]
    assert flops(cfg, 4.0, 20).total > flops(cfg, 2.0, 10).total > 0
    training = Training(cuda=kind == "lact", bf16=kind == "lact")
    plain, checkpointed = (memory(with_checkpointing(cfg, on), training, model) for on in (False, True))
    kept = [m.kept["encoder layers"].bytes(8, frames, 20) for m in (plain, checkpointed)]
    assert 0 < kept[1] < 0.5 * kept[0]
    assert plain.bytes(9, frames, 20) > plain.bytes(8, frames, 20)


def test_an_attention_decoder_is_refused() -> None:
    cfg = small()
    cfg.heads["attention"] = AttentionDecoderConfig(weight=0.5)
    for ask in (lambda: flops(cfg, 10.0, 50), lambda: memory(cfg, Training(cuda=True, bf16=True))):
        with pytest.raises(MayaError, match="cannot estimate the head 'attention'.*limit=auto"):
            ask()


def test_a_head_without_estimate_costs_its_weights() -> None:
    cfg = small()
    cfg.heads["emotion"] = ClassifyConfig(label="emotion", classes=("calm", "angry"))
    plain, with_head = (flops(c, 10.0, 50).forward for c in (small(), cfg))
    frames = count_frames(cfg, 10.0)[1]
    assert with_head == plain | {"emotion head": 2.0 * (2 * 64 + 1) * 2 * frames}


def test_views_are_counted() -> None:
    """CR-CTC holds every utterance twice from the masks on: twice the operations of training, but for the
    features, and the memory of a batch of twice as many."""
    plain = small()
    del plain.heads["transducer"]
    double = replace(plain, heads={"ctc": CTCConfig(consistency_weight=0.2)})
    work = {cfg.views: flops(cfg, 10.0, 30) for cfg in (plain, double)}
    assert work[1].forward == work[2].forward
    for part, operations in work[1].training.items():
        assert work[2].training[part] == operations * (1 if part == "features" else 2)
    held = {cfg.views: memory(cfg, Training(cuda=False, bf16=False)) for cfg in (plain, double)}
    for part, terms in held[1].kept.items():
        assert held[2].kept[part].bytes(8, 50, 20) == pytest.approx(terms.bytes(16, 50, 20))
    for name in held[1].moments.keys() - {"features", "end of the backward pass"}:
        extra = held[1].moments[name].extra
        assert held[2].moments[name].extra.bytes(8, 50, 20) == pytest.approx(extra.bytes(16, 50, 20))
