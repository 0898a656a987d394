"""LoRA and bottleneck adapters: no change at the start, merged exactly, and alone in learning."""

from pathlib import Path

import pytest
import torch

from maya.data.loading.batch import Batch, make_batch
from maya.errors import MayaError
from maya.models.adapters import AdapterConfig, is_adapter
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, build, load_checkpoint, save_checkpoint, start_from
from maya.train.config import TrainConfig, check
from maya.train.learn import choose_learning
from maya.train.optimizers.optim import AnchoredAdamW, make_optimizer
from tests import tiny, tiny_zipformer

MODELS = {"fastconformer": tiny.hybrid, "zipformer": tiny_zipformer.config}


def batch() -> Batch:
    make = torch.Generator().manual_seed(1)
    audio = [torch.randn(n, generator=make) * 0.1 for n in (24000, 16000)]
    return make_batch(audio, [[1, 2, 3], [4, 5]], [0, 0], ["a", "b"], sample_rate=16000)


def with_adapters(cfg: SpeechModelConfig, kind: str, tmp_path: Path) -> tuple[SpeechModel, SpeechModel]:
    """A model, and the same with adapters that start from its checkpoint."""
    torch.manual_seed(0)
    plain = SpeechModel(cfg).eval()
    tokenizer = train_tokenizer({"en": ["a bad cab face"] * 4}, tiny.experiment().tokenizer)
    path = tmp_path / "plain.pt"
    made = Checkpoint(model_config=cfg, tokenizer=tokenizer, weights=plain.state_dict(), step=0, notes={})
    save_checkpoint(path, made)
    cfg = MODELS["fastconformer" if "fast" in type(cfg.encoder).__name__.lower() else "zipformer"]()
    cfg.adapters = AdapterConfig(type=kind, rank=4)  # type: ignore[arg-type]
    adapted = SpeechModel(cfg).eval()
    start_from(adapted, path, ("encoder", *cfg.heads))
    if cfg.language_embedding:
        start_from(adapted, path, ("language_embedding",))
    return plain, adapted


def learn(model: SpeechModel, cfg: TrainConfig, steps: int = 3) -> set[str]:
    """The names in the state dict that a few steps change."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    choose_learning(model, cfg)
    optimizer = make_optimizer(model, cfg)
    for _ in range(steps):
        model.train()(batch(), torch.Generator().manual_seed(0)).total.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


def outputs(model: SpeechModel) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return model.eval()(batch(), torch.Generator().manual_seed(0)).parts


@pytest.mark.parametrize("encoder", MODELS)
@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_adapters_start_as_nothing_and_learn_alone(encoder: str, kind: str, tmp_path: Path) -> None:
    plain, adapted = with_adapters(MODELS[encoder](), kind, tmp_path)
    for name, loss in outputs(plain).items():
        torch.testing.assert_close(outputs(adapted)[name], loss, rtol=0, atol=0)
    changed = learn(adapted, TrainConfig(lr=1e-2, learn="adapters"))
    assert changed and all(map(is_adapter, changed))
    parts = {"encoder", *(("transducer", "ctc") if kind == "lora" else ("transducer",))}
    assert parts <= {key.split(".")[key.startswith("heads.")] for key in changed}
    assert any(not torch.equal(outputs(adapted)[name], loss) for name, loss in outputs(plain).items())


@pytest.mark.parametrize("encoder", MODELS)
def test_merged_lora_is_the_same_model_without_it(encoder: str, tmp_path: Path) -> None:
    plain, adapted = with_adapters(MODELS[encoder](), "lora", tmp_path)
    learn(adapted, TrainConfig(lr=1e-2, learn="adapters"))
    tokenizer = train_tokenizer({"en": ["a bad cab face"] * 4}, tiny.experiment().tokenizer)
    path = tmp_path / "lora.pt"
    weights = adapted.state_dict()
    saved = Checkpoint(model_config=adapted.cfg, tokenizer=tokenizer, weights=weights, step=3, notes={})
    save_checkpoint(path, saved)
    merged = build(load_checkpoint(path))
    assert merged.state_dict().keys() == plain.state_dict().keys() and merged.cfg.adapters.type == "none"
    for name, loss in outputs(adapted).items():
        assert torch.equal(outputs(merged)[name], loss), name


@pytest.mark.parametrize("encoder", MODELS)
def test_bottlenecks_are_in_streams_too(encoder: str) -> None:
    torch.manual_seed(0)
    if encoder == "zipformer":
        cfg = tiny_zipformer.config(causal=True)
    else:
        cfg = tiny.hybrid()
        cfg.encoder.att_context_style, cfg.encoder.att_context_size = "chunked_limited", ((8, 3),)  # type: ignore
        cfg.encoder.conv_context, cfg.encoder.causal_downsampling = "causal", True  # type: ignore[attr-defined]
    cfg.adapters = AdapterConfig(type="bottleneck", rank=4)
    model = SpeechModel(cfg).eval()
    feats = torch.randn(1, 320, cfg.features.num_mels)

    def streamed() -> torch.Tensor:
        with torch.inference_mode():
            return model.encoder.stream(1).push(feats, final=True).frames

    before = streamed()
    for name, p in model.named_parameters():
        if is_adapter(name):
            p.data += 0.1
    assert before.shape == streamed().shape and (before - streamed()).abs().amax() > 1e-3


@pytest.mark.parametrize(("mode", "learns"), [("top", "layers.1."), ("norms", "norm")])
def test_top_layers_and_norms_learn_alone(mode: str, learns: str) -> None:
    torch.manual_seed(0)
    model = SpeechModel(tiny.hybrid())
    cfg = TrainConfig(lr=1e-2, learn=mode, top_layers=1)  # type: ignore[arg-type]
    changed = learn(model, cfg)
    encoder = {key for key in changed if key.startswith("encoder.")}
    assert encoder and all(learns in key for key in encoder)
    statistics = {key for key in encoder if "running" in key}
    assert all("layers.1." in key for key in statistics) if mode == "top" else statistics
    assert any(key.startswith("heads.") for key in changed) == (mode == "top")
    cfg = TrainConfig(lr=1e-2, learn="norms", learn_vocabulary=True)
    changed = learn(SpeechModel(tiny.hybrid()), cfg)
    assert any("embed" in k for k in changed) and any("decoder_layers" in k for k in changed)
    assert "language_embedding.weight" in changed


def test_l2_sp_pulls_to_the_start_and_survives_a_resume() -> None:
    torch.manual_seed(0)
    model, cfg = SpeechModel(tiny.hybrid()), TrainConfig(lr=1e-2, l2_sp=20.0, weight_decay=0.0)
    start = {k: p.detach().clone() for k, p in model.named_parameters()}
    optimizer = make_optimizer(model, cfg)
    assert isinstance(optimizer, AnchoredAdamW)
    model.train()(batch(), torch.Generator().manual_seed(0)).total.sum().backward()
    optimizer.step()
    optimizer.zero_grad()

    def distance() -> float:
        return sum(float((p - start[k]).square().sum()) for k, p in model.named_parameters())

    away = distance()
    again = make_optimizer(model, cfg)
    again.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    again.step()
    assert away > 0 and all(
        torch.equal(a, start[k])
        for g in again.param_groups
        for a, k in zip(g["anchors"], _names(model, g["params"]), strict=True)
    )


def _names(model: SpeechModel, params: list[torch.nn.Parameter]) -> list[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for p in params]


def test_options_that_do_not_fit_are_refused() -> None:
    cfg = tiny.hybrid()
    with pytest.raises(MayaError, match="needs model.adapters.type"):
        check(TrainConfig(learn="adapters"), cfg)
    for option in ({"l2_sp": 1.0}, {"fixed_pieces": 3}):
        with pytest.raises(MayaError, match="is for train.optimizer=adamw"):
            check(TrainConfig(optimizer="scaled_adam", **option), cfg)  # type: ignore[arg-type]
    cfg.adapters = AdapterConfig(type="lora", targets=("no_such_layer",))
    with pytest.raises(MayaError, match="no_such_layer"):
        SpeechModel(cfg)
