"""Encoders of transformers: the stock classes on a lone utterance, independence of padding, and training."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import maya
from maya.data.loading.batch import make_batch
from maya.encoders import Encoder, HuggingFaceConfig, hugging_face
from maya.encoders.hugging_face.config import FAMILIES, features_for
from maya.errors import MayaError
from maya.features import FeaturesConfig, SpecAugmentConfig
from maya.heads import CTCConfig
from maya.models.adapters import AdapterConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes.cli import main
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests import tiny
from tests.convert.archives import tokenizer
from tests.encoders.hugging_face_models import LENS, MODELS, audio, change_config, save, stock

TOLERANCE = 1e-5
OPTIONS: dict[str, dict[str, Any]] = {"mms": {"language": "eng"}}
WHOLE = [(name, True) for name in MODELS] + [("whisper", False), ("qwen2-audio", False)]


@pytest.fixture(autouse=True)
def needs_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all models, each made when it is first used."""
    return tmp_path_factory.mktemp("models")


def opened(name: str, top: Path, **options: Any) -> tuple[Any, FeaturesConfig, HuggingFaceConfig]:
    """The stock encoder, and ours out of its folder in `top`."""
    model, encoder = stock(name)
    folder = top / name if (top / name).exists() else save(model, top / name, name)
    features, cfg = hugging_face(folder, **OPTIONS.get(name, {}) | options)
    return encoder, features, cfg


def with_start(cfg: HuggingFaceConfig) -> Encoder:
    encoder: Encoder = cfg.build()
    encoder.read_start()
    return encoder.eval()


def stock_input(name: str, features: FeaturesConfig, row: int) -> tuple[Tensor, int]:
    """The input of a lone utterance, without any padding but that of the window, and its frames."""
    x, lens = features.build()(audio()[row : row + 1, : LENS[row]], LENS[row : row + 1])
    if MODELS[name][0].startswith(("Whisper", "Qwen2")):
        return x.mT, int(lens)
    return x[:, :, 0] if x.shape[2] == 1 else x, int(lens)


def by_time(name: str, states: Tensor) -> Tensor:
    """AST's tokens as frames: 12 bands of patches."""
    return states[:, 2:].unflatten(1, (12, -1)).mean(1) if name == "ast" else states


@pytest.mark.parametrize("name", MODELS)
def test_a_lone_utterance_equals_the_stock_class(name: str, folders: Path) -> None:
    original, features, cfg = opened(name, folders)
    ours = with_start(cfg)
    for row in range(3):
        x, _ = stock_input(name, features, row)
        feats = features.build()(audio()[row : row + 1, : LENS[row]], LENS[row : row + 1])
        with torch.no_grad():
            expected = original(x, output_hidden_states=True)
            got = ours(*feats, hidden=(0, 1, 3))
        frames = int(got.lens)
        assert frames == cfg.subsampled(int(feats[1])) > 0
        last = by_time(name, expected.last_hidden_state)[0, :frames]
        assert (got.frames[0] - last).abs().max() < TOLERANCE
        if name != "qwen2-audio":  # its inner states are not averaged in pairs there
            for number, state in got.hidden.items():
                assert (
                    state[0] - by_time(name, expected.hidden_states[number])[0, :frames]
                ).abs().max() < TOLERANCE


@pytest.mark.parametrize(("name", "whole"), WHOLE)
@pytest.mark.parametrize("output", ["last", "weighted"])
def test_a_padded_row_equals_the_row_alone(name: str, whole: bool, output: Any, folders: Path) -> None:
    _, features, cfg = opened(name, folders, whole=whole, output=output)
    ours, front = with_start(cfg), features.build()
    lens = torch.cat([LENS, torch.tensor([300, 0])])  # two are too short for a frame, or nearly
    rows = torch.cat([audio(), 0.1 * torch.ones(2, 24000) * (torch.arange(24000) < lens[3:, None])])
    with torch.no_grad():
        together = ours(*front(rows, lens), hidden=(0, 2))
        for i, n in enumerate(lens.tolist()):
            alone = ours(*front(rows[i : i + 1, : max(n, 1)], lens[i : i + 1]), hidden=(0, 2))
            frames = int(together.lens[i])
            assert frames == int(alone.lens) == cfg.subsampled(features.frames(n))
            assert not together.frames[i, frames:].any()
            for a, b in (
                (alone.frames, together.frames),
                *((alone.hidden[k], together.hidden[k]) for k in (0, 2)),
            ):
                assert a.isfinite().all()
                assert frames == 0 or (a[0, :frames] - b[i, :frames]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm", "data2vec"])
def test_the_stock_classes_miss_it_by_much(name: str, folders: Path) -> None:
    """So the test above would see it."""
    original, features, cfg = opened(name, folders)
    x, lens = features.build()(audio(), LENS)
    mask = (torch.arange(24000) < lens[:, None]).long()
    with torch.no_grad():
        padded = original(x[:, :, 0], attention_mask=mask).last_hidden_state
        alone = original(stock_input(name, features, 2)[0]).last_hidden_state
    assert (padded[2, : alone.shape[1]] - alone[0]).abs().max() > 0.1


def test_every_family_is_tried() -> None:
    tried = {stock(name)[1].config.model_type for name in MODELS}
    assert set(FAMILIES) - {"qwen2_audio"} == tried


def speech_model(
    cfg: SpeechModelConfig | HuggingFaceConfig, features: FeaturesConfig, **fields: Any
) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(SpeechModelConfig(
        features=features, encoder=cfg, heads={"ctc": CTCConfig()}, vocab_size=12,
        specaugment=SpecAugmentConfig(freq_masks=0, time_masks=2), **fields,
    ))  # fmt: skip


def step(model: SpeechModel) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss of a batch and the gradients of everything that learns."""
    rows = [row[:n] for row, n in zip(audio(), LENS.tolist(), strict=True)]
    batch = make_batch(rows, [[1, 2, 3], [4, 5], [6]], [-1] * 3, list("abc"), sample_rate=16000)
    torch.manual_seed(3)
    losses = model.train()(batch).total
    losses.sum().backward()
    return losses.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "whole"), WHOLE)
def test_a_training_step_reaches_every_weight_and_can_be_repeated(
    name: str, whole: bool, folders: Path
) -> None:
    _, features, cfg = opened(name, folders, whole=whole, output="weighted")
    runs = [step(speech_model(cfg, features)) for _ in range(2)]
    losses, grads = runs[0]
    assert losses.isfinite().all() and losses.shape == (3,)
    without = [n for n, g in grads.items() if g is None or not g.isfinite().all() or not g.any()]
    assert [n for n in without if not n.endswith(("k_proj.bias", "linear_k.bias"))] == []  # of no effect
    assert grads["encoder.layer_weights"] is not None and grads["encoder.layer_weights"].any()
    assert torch.equal(losses, runs[1][0])
    assert all(g is None or torch.equal(g, runs[1][1][n]) for n, g in grads.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_a_lora_step_reaches_every_matrix_also_in_wavlms_attention(name: str, folders: Path) -> None:
    """peft's LoRA has no effect on WavLM's attention, which reads the weights past the layers."""
    _, features, cfg = opened(name, folders)
    adapters = AdapterConfig(type="lora", rank=2)
    model = speech_model(cfg, features, adapters=adapters)
    plain = speech_model(cfg, features)
    with torch.no_grad():
        x = features.build()(audio(), LENS)
        before, other = model.eval().encoder(*x).frames, plain.eval().encoder(*x).frames
        assert (before - other).abs().max() < TOLERANCE  # it has the start too
    names = [n for n, _ in model.named_parameters() if n.endswith((".up", ".down"))]
    assert any("q_proj" in n or "linear_q" in n for n in names) and len(names) >= 2 * 6 * 3
    model.learn_only({*names, *(n for n, _ in model.named_parameters() if n.startswith("heads."))})
    for p in model.parameters():  # away from the start, at which `up` is zero and `down` has no gradient
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    _, grads = step(model)
    assert set(names) <= set(grads)
    assert [n for n in names if grads[n] is None or not grads[n].any()] == []  # type: ignore[union-attr]
    model.eval()
    with torch.no_grad():
        before = model.encoder(*x).frames
        after = model.merge_adapters().encoder(*x).frames
    assert (before - after).abs().max() < 1e-4


@pytest.mark.parametrize("normed", [False, True])
def test_layer_weights(normed: bool, folders: Path) -> None:
    original, features, cfg = opened("wavlm-large", folders, output="weighted", norm_layers=normed)
    ours: Any = with_start(cfg)
    x, _ = stock_input("wavlm-large", features, 0)
    with torch.no_grad():
        ours.layer_weights.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
        states = original(x, output_hidden_states=True).hidden_states
        if normed:
            states = [torch.nn.functional.layer_norm(s, s.shape[-1:]) for s in states]
        expected = sum(s * w for s, w in zip(states, ours.layer_weights.softmax(0), strict=True))
        got = ours(x[:, :, None], LENS[:1]).frames
    assert (got - expected).abs().max() < TOLERANCE


def test_frozen_layers_stay(folders: Path) -> None:
    _, features, cfg = opened("wav2vec2", folders, frozen_layers=2)
    model = speech_model(cfg, features)
    _, grads = step(model)
    learning = {n.split(".layers.")[1].split(".")[0] for n in grads if ".layers." in n}
    assert learning == {"2"} and not any("feature_extractor" in n for n in grads)
    blocks = model.encoder.blocks()
    assert [any(m.training for m in b.modules()) for b in blocks] == [False, False, True]
    model.freeze({"encoder"})
    assert [n for n, p in model.named_parameters() if p.requires_grad and n.startswith("encoder")] == []
    with pytest.raises(MayaError, match="frozen_layers=4, but the encoder has 3"):
        dataclasses.replace(cfg, frozen_layers=4).build()


def test_layers_are_not_dropped_and_nothing_is_masked_inside(folders: Path) -> None:
    for name in ("wav2vec2", "w2v-bert", "whisper"):
        _, _, cfg = opened(name, folders)
        model = with_start(cfg).backbone.model  # type: ignore[union-attr]
        inner = model.config
        assert getattr(inner, "layerdrop", 0) == getattr(inner, "encoder_layerdrop", 0) == 0
        assert not inner.apply_spec_augment and not hasattr(model, "masked_spec_embed")


def test_activation_checkpointing_gives_the_same_gradients(folders: Path) -> None:
    _, features, cfg = opened("data2vec", folders)
    plain = step(speech_model(cfg, features))
    again = step(speech_model(dataclasses.replace(cfg, activation_checkpointing=True), features))
    assert torch.allclose(plain[0], again[0], atol=1e-5)
    for name, grad in plain[1].items():
        assert grad is None or torch.allclose(grad, again[1][name], atol=1e-4), name  # type: ignore[arg-type]


def test_mms_takes_the_adapters_of_a_language(folders: Path) -> None:
    _, _, english = opened("mms", folders)
    _, hindi = hugging_face(folders / "mms", language="hin")
    states = [with_start(cfg).state_dict() for cfg in (english, hindi)]
    name = "backbone.model.encoder.layers.1.adapter_layer.linear_1.weight"
    assert torch.allclose(states[1][name], states[0][name] + 0.1)
    differing = [n for n in states[0] if not torch.equal(states[0][n], states[1][n])]
    assert all("adapter_layer" in n for n in differing) and len(differing) == 3 * 6
    with pytest.raises(MayaError, match=r"no adapters for language 'xyz': .*it has eng, hin"):
        hugging_face(folders / "mms", language="xyz")
    with pytest.raises(
        MayaError, match=r"has adapters by language: set the encoder's language; it has eng, hin"
    ):
        hugging_face(folders / "mms")
    with pytest.raises(MayaError, match=r"no adapters for language 'xyz'; it has eng, hin"):
        with_start(dataclasses.replace(hindi, language="xyz"))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    _, features, cfg = opened("wav2vec2", tmp_path)
    folder = tmp_path / "wav2vec2"
    encoder = cfg.build()
    with pytest.raises(MayaError, match="an encoder of kind 'hugging_face' cannot stream"):
        encoder.stream(1)
    with pytest.raises(MayaError, match="features of kind 'waveform' cannot stream"):
        features.build().stream()
    with pytest.raises(MayaError, match="no hidden layer 4"):
        encoder(torch.zeros(1, 800, 1), torch.tensor([800]), hidden=(4,))
    with pytest.raises(MayaError, match=r"a waveform has no frequencies .*freq_masks=0"):
        SpeechModel(SpeechModelConfig(features=features, encoder=cfg))
    with pytest.raises(MayaError, match="is no folder"):
        hugging_face(tmp_path / "nothing")
    change_config(folder, add_adapter=True)
    with pytest.raises(MayaError, match="set add_adapter to false"):
        hugging_face(folder)
    change_config(folder, add_adapter=False, model_type="bert")
    with pytest.raises(MayaError, match="a model of type 'bert' is no encoder that Maya reads"):
        hugging_face(folder)
    change_config(folder, model_type="wav2vec2", num_hidden_layers=4)
    with pytest.raises(MayaError, match="lacks weights of a Wav2Vec2Model: encoder.layers.3"):
        with_start(hugging_face(folder)[1])
    change_config(folder, num_hidden_layers=3, intermediate_size=48)
    with pytest.raises(MayaError, match="has not the shape that config.json gives it"):
        with_start(hugging_face(folder)[1])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MayaError, match=r"pytorch_model\.bin, a pickle, which could run code"):
        with_start(hugging_face(folder)[1])
    with pytest.raises(MayaError, match="is not the text of a config.json"):
        _ = HuggingFaceConfig(settings="{").d_model


@pytest.mark.parametrize("name", ["whisper", "ast"])
def test_audio_that_is_too_long_is_refused(name: str, folders: Path) -> None:
    _, features, cfg = opened(name, folders)
    with pytest.raises(MayaError, match="frames .* got 5000; cut "):
        cfg.build()(torch.zeros(1, 5000, cfg.feat_in), torch.tensor([5000]))
    with pytest.raises(MayaError, match="does not fit into the"):
        features.build()(torch.zeros(1, 480000), torch.tensor([480000]))


def test_without_transformers_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MayaError, match=r"need pip install 'maya-asr\[llm\]'"):
        HuggingFaceConfig().build()


def test_a_checkpoint_needs_no_folder(tmp_path: Path) -> None:
    _, features, cfg = opened("wavlm", tmp_path, output="weighted")
    model, pieces = (
        speech_model(cfg, features, adapters=AdapterConfig(type="lora", rank=2)).eval(),
        tokenizer(vocab_size=40),
    )
    model_config = dataclasses.replace(model.cfg, vocab_size=40)
    torch.manual_seed(0)
    model = build_model(model_config).eval()
    save_checkpoint(tmp_path / "best.pt", Checkpoint(
        model_config=model_config, tokenizer=pieces, weights=model.state_dict(), step=1, notes={}
    ))  # fmt: skip
    (tmp_path / "wavlm").rename(tmp_path / "moved")
    loaded = maya.load(tmp_path / "best.pt", "cpu")
    with torch.no_grad():
        a, b = model.encode(audio(), LENS).frames, loaded.model.encode(audio(), LENS).frames
    assert (a - b).abs().max() < TOLERANCE
    texts = loaded.transcribe([row.numpy() for row in audio()])
    assert len(texts) == 3
    with pytest.raises(MayaError, match="is no folder"):
        build_model(model_config)


@pytest.mark.parametrize("name", ["hubert", "w2v-bert", "whisper"])
def test_the_trainer_trains_it_like_any_other(name: str, tmp_path: Path, folders: Path) -> None:
    _, features, cfg = opened(name, folders, output="weighted", frozen_layers=1)
    exp = tiny.experiment()
    exp.model = SpeechModelConfig(
        features=features, encoder=cfg, heads={"ctc": CTCConfig()}, specaugment=exp.model.specaugment
    )
    exp.train.steps = exp.train.save_every = exp.train.valid_every = 2
    exp.train.warmup_steps = 1
    exp.data.max_seconds = 2.0
    tiny.prepare_run(exp, tmp_path, utterances=6)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    weights = load_checkpoint(tmp_path / "run").weights
    start = with_start(cfg).state_dict()
    moved = {n for n in start if not torch.equal(start[n], weights[f"encoder.{n}"])}
    assert any(".layers.2." in n for n in moved) and not any(".layers.0." in n for n in moved)
    assert "layer_weights" in moved


_EXPERIMENT = """
from maya.encoders import hugging_face
from maya.heads import CTCConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="own/tuned", languages=("en",))
    features, encoder = hugging_face(FOLDER)
    exp.model = SpeechModelConfig(features=features, encoder=encoder, heads={"ctc": CTCConfig()})
    exp.model.specaugment.freq_masks = 0
    return exp
"""


@pytest.mark.parametrize("name", ["wavlm", "whisper", "ast"])
def test_training_is_planned_from_the_memory_of_few_layers(
    name: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(name, folders)
    (tmp_path / "own.py").write_text(_EXPERIMENT.replace("FOLDER", repr(str(folders / name))))
    assert main(["plan", "--experiment", str(tmp_path / "own.py"), "--seconds", "2"]) == 0
    text = capsys.readouterr().out
    assert "encoder layers" in text and "largest batch" in text


_MEASURE = """
import json, resource, sys, torch
from maya.encoders import HuggingFaceConfig
from maya.encoders.hugging_face.config import features_for
cfg = HuggingFaceConfig(settings=sys.argv[1])
encoder, front = cfg.build().eval(), features_for(cfg).build()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.inference_mode():
    encoder(*front(torch.randn(1, 400000), torch.tensor([400000])))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


_SMALL = '"d_model": 768, "encoder_layers": 12, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072'
BASE = {
    "wav2vec2": "", "wavlm": "", "data2vec-audio": "", "wav2vec2-bert": ', "num_hidden_layers": 6',
    "whisper": f", {_SMALL}",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASE)
def test_25_seconds_of_audio_take_a_gigabyte_at_most(kind: str) -> None:
    """Beyond the weights, of models of base size (W2V-BERT: 6 of its 24 layers). docs/models.md says so."""
    settings = f'{{"model_type": "{kind}"{BASE[kind]}}}'
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, settings], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert 0.05 < float(run.stdout.splitlines()[-1]) < 1.0, run.stdout


def test_features_follow_from_the_folder(tmp_path: Path) -> None:
    model, _ = stock("wavlm")
    save(model, tmp_path, "wavlm")
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    features: Any = hugging_face(tmp_path)[0]
    assert features.normalize is False
    assert features_for(HuggingFaceConfig()).normalize is True  # type: ignore[attr-defined]
