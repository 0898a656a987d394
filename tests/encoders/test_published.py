"""SpeechTokenizer, the Transformer over its codes, BEATs, emotion2vec and the perceptron: independence of
padding, lengths, hidden states, files, training. tests/interop/check_codecs.py compares them with the
published classes."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import maya
from maya.config import from_dict, to_dict
from maya.data.loading.batch import make_batch
from maya.encoders import (
    BeatsConfig,
    Emotion2vecConfig,
    Encoder,
    MLPConfig,
    SpeechTokenizerConfig,
    beats,
    emotion2vec,
    speech_codes,
    speech_tokenizer,
)
from maya.errors import MayaError
from maya.features import LogMelConfig, SpecAugmentConfig
from maya.heads import ClassifyConfig, CTCConfig
from maya.models.adapters import AdapterConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint
from tests import tiny
from tests.encoders.published_files import beats_file, emotion2vec_folder, speech_tokenizer_folder

NAMES = ("latents", "quantized", "semantic", "codes", "beats", "emotion2vec", "means", "statistics")
LENS = torch.tensor([24000, 17003, 9001, 300, 1, 0])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("published")
    speech_tokenizer_folder(top / "codec")
    beats_file(top / "beats.pt")
    emotion2vec_folder(top / "emotion2vec")
    return top


def opened(name: str, files: Path) -> tuple[Any, Any]:
    """The features and the configuration of an encoder."""
    if name in ("latents", "quantized", "semantic"):
        return speech_tokenizer(files / "codec", output=name)
    if name == "codes":
        return speech_codes(files / "codec", levels=3, d_model=16, n_layers=2, heads=2, dropout=0.0)
    if name == "beats":
        return beats(files / "beats.pt")
    if name == "emotion2vec":
        return emotion2vec(files / "emotion2vec")
    pooling: Any = "mean" if name == "means" else name
    return LogMelConfig(dither=0.0), MLPConfig(d_model=16, pooling=pooling, dropout=0.0)


def with_start(cfg: Any) -> Encoder:
    torch.manual_seed(0)
    encoder: Encoder = cfg.build()
    encoder.read_start()
    return encoder.eval()


def audio() -> Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(len(LENS), 24000) * (torch.arange(24000) < LENS[:, None])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_padded_row_equals_the_row_alone(name: str, files: Path) -> None:
    features, cfg = opened(name, files)
    ours, front, rows = with_start(cfg), features.build().eval(), audio()
    layers = range(len(cfg.hidden_dims))
    feats, feat_lens = front(rows, LENS)
    together = ours(feats.masked_fill(~_valid(feat_lens, feats)[..., None], 7.0), feat_lens, hidden=layers)
    assert [together.hidden[n].shape[-1] for n in layers] == list(cfg.hidden_dims)
    assert together.frames.shape[-1] == cfg.d_model
    for i, n in enumerate(LENS.tolist()):
        alone = ours(*front(rows[i : i + 1, : max(n, 1)], LENS[i : i + 1]), hidden=layers)
        frames = int(together.lens[i])
        assert (
            frames == int(alone.lens) == cfg.subsampled(features.frames(n)) == ours.clock(features).frames(n)
        )
        for a, b in (
            (alone.frames, together.frames),
            *((alone.hidden[k], together.hidden[k]) for k in layers),
        ):
            assert a.isfinite().all() and b.isfinite().all() and not b[i, frames:].any()
            torch.testing.assert_close(a[0, :frames], b[i, :frames], rtol=0, atol=1e-5)


def _valid(lens: Tensor, feats: Tensor) -> Tensor:
    return torch.arange(feats.shape[1]) < lens[:, None]


@torch.no_grad()
def test_codes_of_a_padded_row_equal_those_alone(files: Path) -> None:
    features, cfg = opened("latents", files)
    ours: Any = with_start(cfg)
    codes, lens = ours.codes(*features.build()(audio(), LENS))
    assert codes.shape == (len(LENS), 75, 4) and lens.tolist() == [75, 54, 29, 1, 1, 0]
    assert len(codes[..., 0].unique()) > 9 and codes.max() < 32
    for i, n in enumerate(LENS.tolist()[:-1]):
        alone, _ = ours.codes(audio()[i : i + 1, :n, None], LENS[i : i + 1])
        assert torch.equal(alone[0], codes[i, : lens[i]]) and not codes[i, lens[i] :].any()
    encoded = ours(audio()[..., None], LENS, hidden=(0, 1, 4))
    books = ours.codebooks
    first = books[0][codes[0, :, 0]]
    torch.testing.assert_close(encoded.hidden[1][0], first)
    total = sum(books[level][codes[0, :, level]] for level in range(4))
    torch.testing.assert_close(encoded.hidden[4][0], total)


@pytest.mark.parametrize("name", ["semantic", "beats", "emotion2vec"])
@torch.no_grad()
def test_weights_are_read_by_their_names(name: str, files: Path, tmp_path: Path) -> None:
    write: Any = {
        "semantic": speech_tokenizer_folder,
        "beats": beats_file,
        "emotion2vec": emotion2vec_folder,
    }[name]
    original = write(tmp_path / "again")
    own = with_start(opened(name, files)[1]).state_dict()
    assert set(own) == set(original.state_dict())
    for key, tensor in original.state_dict().items():
        torch.testing.assert_close(own[key], tensor, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_scale_for_all_blocks(files: Path, tmp_path: Path) -> None:
    emotion2vec_folder(tmp_path, scales=1)
    features, cfg = emotion2vec(tmp_path)
    assert cfg.scales == 1 and features.variance_guard == 1e-5
    each = with_start(opened("emotion2vec", files)[1])
    x = features.build()(audio()[:1], LENS[:1])
    assert (with_start(cfg)(*x).frames - each(*x).frames).abs().max() > 1e-3


def speech_model(features: Any, cfg: Any, **fields: Any) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(SpeechModelConfig(
        features=features, encoder=cfg, vocab_size=12,
        heads={"ctc": CTCConfig(), "mood": ClassifyConfig(label="mood", classes=("a", "b"), pooling="mean")},
        specaugment=SpecAugmentConfig(freq_masks=0, time_masks=0), **fields,
    ))  # fmt: skip


def step(model: SpeechModel) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss of a batch and the gradients of everything that learns."""
    rows = [row[:n] for row, n in zip(audio(), LENS[:3].tolist(), strict=False)]
    batch = make_batch(rows, [[1, 2, 3], [4], [6]], [-1] * 3, list("abc"), sample_rate=16000)
    batch = dataclasses.replace(batch, labels={"mood": ["a", "b", "a"]})
    losses = model.train()(batch).total
    losses.sum().backward()
    return losses.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_reaches_every_weight_and_can_be_repeated(name: str, files: Path) -> None:
    runs = [step(speech_model(*opened(name, files))) for _ in range(2)]
    losses, grads = runs[0]
    assert losses.isfinite().all()
    without = [n for n, g in grads.items() if g is None or not g.isfinite().all() or not g.any()]
    assert [n for n in without if not n.endswith("k_proj.bias")] == []  # of no effect
    assert torch.equal(losses, runs[1][0])
    assert all(torch.equal(g, runs[1][1][n]) for n, g in grads.items() if g is not None)  # type: ignore[arg-type]
    frozen = [n for n in grads if n.startswith("encoder.codec")]
    assert frozen == []


@pytest.mark.parametrize("name", ["codes", "beats", "emotion2vec", "means"])
def test_a_lora_step_reaches_every_matrix(name: str, files: Path) -> None:
    features, cfg = opened(name, files)
    model = speech_model(features, cfg, adapters=AdapterConfig(type="lora", rank=2))
    plain = speech_model(features, cfg)
    encoder: Any = model.encoder
    assert encoder.blocks() == list(encoder.layers)
    with torch.no_grad():
        x = features.build().eval()(audio(), LENS)
        before, other = model.eval().encoder(*x).frames, plain.eval().encoder(*x).frames
        if name in ("beats", "emotion2vec"):  # the others are not all out of a file
            assert (before - other).abs().max() < 1e-5
    names = {n for n, _ in model.named_parameters() if n.endswith((".up", ".down"))}
    assert len([n for n in names if n.startswith("encoder.layers.")]) >= 4
    model.learn_only(names | {n for n, _ in model.named_parameters() if n.startswith("heads.")})
    for p in model.parameters():  # away from the start, at which `up` is zero and `down` has no gradient
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    _, grads = step(model)
    assert [n for n in names if grads[n] is None or not grads[n].any()] == []  # type: ignore[union-attr]
    model.eval()
    with torch.no_grad():
        before = model.encoder(*x).frames
        assert (before - model.merge_adapters().encoder(*x).frames).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_options_round_trip_and_streams_are_refused(name: str, files: Path) -> None:
    features, cfg = opened(name, files)
    whole = SpeechModelConfig(features=features, encoder=cfg)
    whole.specaugment.freq_masks = 0
    assert from_dict(SpeechModelConfig, to_dict(whole)) == whole
    encoder = cfg.build()
    with pytest.raises(MayaError, match=f"an encoder of kind '{cfg.kind}' cannot stream"):
        encoder.stream(1)
    with pytest.raises(MayaError, match="no hidden layer 30"):
        encoder(torch.zeros(1, 800, cfg.feat_in), torch.tensor([800]), hidden=(30,))


def test_the_two_stages_are_trained_like_any_other(files: Path, tmp_path: Path) -> None:
    features, cfg = opened("codes", files)
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
    codec = {n for n in start if n.startswith("codec.")}
    moved = {n for n in codec if not torch.equal(start[n], weights[f"encoder.{n}"])}
    assert codec and not moved
    (files / "codec").rename(files / "elsewhere")  # a checkpoint needs no file
    try:
        recognizer = maya.load(tmp_path / "run", "cpu")
        assert len(recognizer.transcribe([row.numpy() for row in audio()[:2]], language="en")) == 2
    finally:
        (files / "elsewhere").rename(files / "codec")


class Object:
    """Not a tensor."""


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    codec, file, folder = tmp_path / "codec", tmp_path / "beats.pt", tmp_path / "emotion"
    speech_tokenizer_folder(codec, activation="Snake")
    with pytest.raises(MayaError, match="activation 'Snake' is not read"):
        speech_tokenizer(codec)
    speech_tokenizer_folder(codec, n_q=5)
    with pytest.raises(MayaError, match="no SpeechTokenizer of 5 levels: it lacks quantizer.vq.layers.4"):
        with_start(speech_tokenizer(codec)[1])
    speech_tokenizer_folder(codec, codebook_size=16)
    with pytest.raises(MayaError, match=r"has shape \(32, 16\), and \(16, 16\) by config.json"):
        with_start(speech_tokenizer(codec)[1])
    speech_tokenizer_folder(codec, n_filters=8)
    with pytest.raises(MayaError, match=r"of a SpeechTokenizer has shape .* by its settings"):
        with_start(speech_tokenizer(codec)[1])
    with pytest.raises(MayaError, match="encoder.levels=9, but the tokenizer has 4"):
        speech_codes(codec, levels=9)[1].build()
    (codec / "config.json").write_text("{}")
    with pytest.raises(MayaError, match="is not SpeechTokenizer's: it lacks n_filters"):
        speech_tokenizer(codec)
    beats_file(file, layer_norm_first=True)
    with pytest.raises(MayaError, match="BEATs with layer_norm_first=True is not read"):
        beats(file)
    beats_file(file, encoder_layers=4)
    with pytest.raises(MayaError, match="lacks the weights of layers.3"):
        with_start(beats(file)[1])
    beats_file(file, encoder_layers=2)
    with pytest.raises(MayaError, match="has tensors that BEATs does not have: layers.2"):
        with_start(beats(file)[1])
    emotion2vec_folder(folder, layer_norm_first=True)
    with pytest.raises(MayaError, match="layer_norm_first=True is not read"):
        emotion2vec(folder)
    audio_settings = {"audio": {"feature_encoder_spec": "__import__('os').getcwd()"}}
    emotion2vec_folder(folder, modalities=audio_settings)
    with pytest.raises(MayaError, match="is no list of convolutions of one width"):
        emotion2vec(folder)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(MayaError, match=r"no readable config.yaml of emotion2vec \(ParserError\)"):
        emotion2vec(folder)
    (folder / "model.pt").unlink()
    with pytest.raises(MayaError, match="has no model.pt; take the whole folder"):
        emotion2vec(folder)


def test_nothing_pickled_is_executed(tmp_path: Path) -> None:
    codec, file, folder = tmp_path / "codec", tmp_path / "beats.pt", tmp_path / "emotion"
    speech_tokenizer_folder(codec)
    beats_file(file)
    emotion2vec_folder(folder)
    for path in (codec / "SpeechTokenizer.pt", file, folder / "model.pt"):
        torch.save({"model": Object(), "cfg": Object()}, path)
    for read in (
        lambda: with_start(speech_tokenizer(codec)[1]),
        lambda: beats(file),
        lambda: emotion2vec(folder),
    ):
        with pytest.raises(MayaError, match="no file of weights that torch can read safely"):
            read()
    torch.save({"a": 1}, file)
    with pytest.raises(MayaError, match='is no BEATs file: it has no "cfg"'):
        beats(file)
    torch.save({"a": 1}, codec / "SpeechTokenizer.pt")
    with pytest.raises(MayaError, match="holds no state dict"):
        with_start(speech_tokenizer(codec)[1])
    with pytest.raises(MayaError, match="there is no file"):
        beats(tmp_path / "none.pt")


_MEASURE = """
import resource, torch
from maya.encoders import *
from maya.features import *
encoder, front = {encoder}.build().eval(), {features}.build()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.inference_mode():
    encoder(*front(torch.randn(1, 400000), torch.tensor([400000])))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
PUBLISHED = {
    "speech_tokenizer": (SpeechTokenizerConfig(), "WaveformConfig(normalize=False)"),
    "beats": (BeatsConfig(), "BeatsFbankConfig()"),
    "emotion2vec": (Emotion2vecConfig(), "WaveformConfig()"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_25_seconds_of_audio_take_a_gigabyte_at_most(name: str) -> None:
    """Beyond the weights, of models of the published sizes. docs/models.md says so."""
    cfg, features = PUBLISHED[name]
    text = _MEASURE.format(encoder=f"{type(cfg).__name__}()", features=features)
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    assert 0.05 < float(run.stdout.splitlines()[-1]) < 1.0, run.stdout
