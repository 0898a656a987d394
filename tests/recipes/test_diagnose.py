"""`maya diagnose` names the broken module: bad weights, a bad backward pass, or bad audio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from maya.features import LogMelConfig
from maya.heads import ClassifyConfig, ctc
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes import diagnose
from maya.recipes.cli import main
from maya.recipes.lact_presets import lact_tiny
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.checkpoints.state import Run
from maya.train.failure import Failure, Tally, keep
from maya.train.memory.steps import synthetic
from tests import tiny, tiny_zipformer, tones
from tests.train.test_failure import Poison


def fastconformer() -> SpeechModelConfig:
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages, cfg.encoder.dropout = 20, ("en", "hi"), 0.1
    return cfg


def lact() -> SpeechModelConfig:
    encoder = lact_tiny(d_model=32, n_layers=2, n_heads=2, ff_dim=32)
    return hybrid(
        features=LogMelConfig(num_mels=40), encoder=encoder, vocab_size=20, transducer="none", ctc_weight=1.0
    )


# encoder -> (configuration, a module in the middle of it)
MODELS: dict[str, tuple[Callable[[], SpeechModelConfig], str]] = {
    "fastconformer": (fastconformer, "encoder.layers.1.feed_forward1.linear2"),
    "zipformer": (
        lambda: tiny_zipformer.config(blank_first=False),
        "encoder.encoders.1.encoder.layers.0.feed_forward2.in_proj",
    ),
    "lact": (lact, "encoder.layers.1.mixer.linear_q"),
}


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    texts = {"en": ["ab cd ef gh", "hg fe dc ba", "abc def gh"]}
    return Tokenizer.train(texts, TokenizerConfig(vocab_size=14, model_type="bpe"))


def _kept(run: Path, model: SpeechModel, tokenizer: Tokenizer, spoil: Callable[[Tally], None]) -> None:
    """A run folder with a saved batch, as training leaves it after a NaN."""
    device = torch.device("cpu")
    tally = Tally.before(synthetic(3, 2.0, 5, 20), torch.Generator(), device)
    tally.losses = torch.ones(3)
    spoil(tally)
    failure = Failure(
        step=7, what="loss", rank=0, device="cpu", bf16=False, scale=0.1, batch_count=10.0, frozen=[],
        tallies=[tally],
    )  # fmt: skip
    model.begin_step(7, 10.0)
    unused: Any = None
    keep(
        Run(folder=run, model=model, optimizer=unused, tokenizer=tokenizer, experiment=tiny.experiment(),
            log=unused),
        failure, "rank-00000",
    )  # fmt: skip


def _said(run: Path, capsys: pytest.CaptureFixture[str], status: int, *options: str) -> str:
    capsys.readouterr()
    assert main(["diagnose", str(run), *options]) == status
    return capsys.readouterr().out


@pytest.mark.parametrize("encoder", MODELS)
def test_broken_module_is_named(
    encoder: str, tmp_path: Path, pieces: Tokenizer, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config, name = MODELS[encoder]
    model = build_model(config())
    _kept(tmp_path / "sound", model, pieces, lambda _: None)
    out = _said(tmp_path / "sound", capsys, 0)
    assert "weights: all are finite" in out and "forward: all outputs are finite" in out
    assert "backward: all gradients are finite" in out and out.count("gradient norm:") == diagnose.NORMS
    assert "step 7, loss, rank 0: 3 utterances × 2.0 s on cpu, fp32; now on cpu" in out

    with torch.no_grad():
        model.get_submodule(name).weight[0, 0] = torch.nan
    _kept(tmp_path / "weight", model, pieces, lambda _: None)
    out = _said(tmp_path / "weight", capsys, 1)
    assert f"parameter: {name}.weight is not finite" in out and " 1 nan and 0 inf" in out
    assert f"forward: the first output that is not finite is of {name} (" in out
    assert "backward" not in out

    def poisoned(path: Path) -> Any:
        loaded, tokenizer = real(path)
        loaded.get_submodule(name).register_forward_hook(lambda m, args, out: Poison.apply(out))
        return loaded, tokenizer

    real = diagnose.load
    monkeypatch.setattr(diagnose, "load", poisoned)
    out = _said(tmp_path / "sound", capsys, 1)
    assert "forward: all outputs are finite" in out
    assert f"backward: the first gradient that is not finite is of {name} (" in out
    assert "backward: Function 'PoisonBackward' returned nan values" in out
    assert "gradient norm: nan" in out


def test_non_finite_silent_and_clipped_audio(
    tmp_path: Path, pieces: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(tally: Tally) -> None:
        tally.batch.audio[0, 500:600] = torch.nan
        tally.batch.audio[1] = 0.0
        tally.batch.audio[2, 1000:9000] = 1.0
        tally.batch.token_lens[2] = 0

    _kept(tmp_path, build_model(fastconformer()), pieces, spoil)
    lines = _said(tmp_path, capsys, 1).splitlines()
    audio_lines = [line for line in lines if line.startswith("audio: ")]
    assert audio_lines[0].endswith("100 SAMPLES ARE NOT FINITE") and audio_lines[1].endswith("SILENT")
    assert audio_lines[2].endswith("25.0% CLIPPED, NO TOKENS")
    (forward,) = [line for line in lines if line.startswith("forward: ")]
    assert "input[0] (3, 32000): 100 nan and 0 inf" in forward


def test_loss_is_named_if_all_modules_are_finite(
    tmp_path: Path, pieces: Tokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _kept(tmp_path, build_model(lact()), pieces, lambda _: None)
    real = SpeechModel.losses

    def nan(self: SpeechModel, *args: Any, **options: Any) -> Any:
        out = real(self, *args, **options)
        out.parts["ctc"] = out.parts["ctc"] * torch.nan
        return out

    monkeypatch.setattr(SpeechModel, "losses", nan)
    out = _said(tmp_path, capsys, 1)
    assert "forward: all modules' outputs are finite, losses are not: loss.parts.ctc (3,): 3 nan" in out

    monkeypatch.undo()
    loss = ctc.ctc_loss
    monkeypatch.setattr(ctc, "ctc_loss", lambda x, *args, **options: loss(Poison.apply(x), *args, **options))
    out = _said(tmp_path, capsys, 1)
    assert "backward: the first gradient that is not finite is of heads.ctc (CTCHead), " in out
    assert "what follows it" in out


def test_checkpoint_with_a_recording(
    tmp_path: Path, pieces: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(fastconformer())
    _kept(tmp_path, model, pieces, lambda _: None)
    checkpoint = tmp_path / "not-a-number" / "model.pt"
    soundfile.write(tmp_path / "a.wav", tones.speak("abc de"), 16000)
    audio = ["--audio", str(tmp_path / "a.wav")]
    assert "forward: all outputs of the encoder are finite" in _said(checkpoint, capsys, 0, *audio)
    assert "gradient norm:" in _said(checkpoint, capsys, 0, *audio, "--text", "abc de")
    with torch.no_grad():
        model.encoder.layers[0].conv.depthwise_conv.weight[3] = torch.inf  # type: ignore[union-attr,index]
        model.get_parameter("heads.transducer.joint.enc.weight")[0, 0] = 2e4
    _kept(tmp_path, model, pieces, lambda _: None)
    out = _said(checkpoint, capsys, 1, *audio)
    assert "first output that is not finite is of encoder.layers.0.conv" in out
    assert "parameter: heads.transducer.joint.enc.weight is above 10000" in out
    for options, words in (
        (["--text", "abc"], "name them with --audio"),
        ([*audio, "--device", "gpu"], "this machine has no device 'gpu'"),
    ):
        assert main(["diagnose", str(checkpoint), *options]) == 2
        assert words in capsys.readouterr().err
    assert main(["diagnose", str(tmp_path / "nowhere")]) == 2
    assert "holds no not-a-number/" in capsys.readouterr().err


def test_head_that_needs_labels(
    tmp_path: Path, pieces: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording of the command line has no labels: the loss of such a head is 0."""
    cfg = fastconformer()
    cfg.heads["mood"] = ClassifyConfig(label="mood", classes=("glad", "sad"))
    _kept(tmp_path, build_model(cfg), pieces, lambda _: None)
    soundfile.write(tmp_path / "a.wav", tones.speak("abc de"), 16000)
    options = ["--audio", str(tmp_path / "a.wav"), "--text", "abc de"]
    assert "backward: all gradients are finite" in _said(
        tmp_path / "not-a-number/model.pt", capsys, 0, *options
    )
