"""ECAPA-TDNN and its features against SpeechBrain's own classes, with the same random weights; and against
those of wespeaker, where a checkout of it is named, which also has ResNet34 and CAM++.

    pip install --no-deps speechbrain hyperpyyaml ruamel.yaml joblib huggingface_hub kaldi-native-fbank
    python -m tests.interop.check_speechbrain [WESPEAKER]

torchaudio, which SpeechBrain imports and these classes do not use, may be missing.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert import Conversion, import_ecapa, import_wespeaker
from maya.features import VoiceFbankConfig
from maya.heads import SpeakerHead
from maya.losses.angular_margin import class_cosines, margin_logits


def speechbrain(name: str) -> Any:
    """A module of SpeechBrain."""
    if importlib.util.find_spec("torchaudio") is None:
        module = types.ModuleType("torchaudio")
        module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        module.__version__ = "2.8.0"  # type: ignore[attr-defined]
        sys.modules["torchaudio"] = module
    return importlib.import_module(f"speechbrain.{name}")


def wespeaker(name: str) -> Any:
    """A module of a checkout of wespeaker, without what its package imports."""
    for package in ("wespeaker", "wespeaker.models"):
        module = types.ModuleType(package)
        module.__path__ = [str(Path(sys.argv[1], *package.split(".")))]
        sys.modules.setdefault(package, module)
    return importlib.import_module(f"wespeaker.{name}")


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """With statistics as after training, in evaluation."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return module.eval()


def differences(
    original: torch.nn.Module, embed: Callable[..., Tensor], *, masks: bool,
    convert: Callable[[Path], Conversion] = import_ecapa,
) -> dict[str, float]:  # fmt: skip
    """The largest difference of embeddings, beside the largest value: of a batch of equal lengths, of a
    padded one, and of its rows alone. embed: (B, T, 80), and relative lengths where it has `masks`, to
    (B, E)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embedding_model.ckpt"
        torch.save(original.state_dict(), path)
        model = convert(path).recognizer("cpu").model
    head = model.head("speaker")
    assert isinstance(head, SpeakerHead)
    model.encoder.cfg.subtract_mean = False  # they do it before the encoder
    x, lens = torch.randn(4, 200, 80), torch.tensor([200, 200, 200, 200])
    ours = head.embed(model.encoder(x, lens))
    result = {"equal lengths": float((embed(x) - ours).abs().max()), "scale": float(ours.abs().max())}
    lens = torch.tensor([200, 150, 90, 30])
    padded = head.embed(model.encoder(x, lens))
    alone = [embed(x[i : i + 1, :n])[0] for i, n in enumerate(lens.tolist())]
    own = [
        head.embed(model.encoder(x[i : i + 1, :n], lens[i : i + 1]))[0] for i, n in enumerate(lens.tolist())
    ]
    result["padded, against each row alone there"] = float((padded - torch.stack(alone)).abs().max())
    result["padded, against each row alone here"] = float((padded - torch.stack(own)).abs().max())
    if masks:
        padded_there = embed(x, lens / lens.max()) - torch.stack(alone)
        result["padded there, against each row alone there"] = float(padded_there.abs().max())
    return result


def feature_difference() -> float:
    """Of decibels, on noise whose second half is faint."""
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(2, 16000)
    audio[:, 8000:] *= 1e-4
    original = speechbrain("lobes.features").Fbank(n_mels=80)(audio)
    ours, _ = VoiceFbankConfig().build()(audio, torch.tensor([16000, 16000]))
    return float((original - ours).abs().max())


def margin_difference() -> float:
    cosines = torch.linspace(-1, 1, 101)[:, None].repeat(1, 3)
    margin = speechbrain("nnet.losses").AdditiveAngularMargin(margin=0.2, scale=30)
    targets = torch.zeros(101, dtype=torch.int64)
    original = margin(cosines, torch.nn.functional.one_hot(targets, 3).float())
    return float((original - margin_logits(cosines, targets, margin=0.2, scale=30)).abs().max())


def kaldi_difference() -> float:
    """Of wespeaker's features, against Kaldi's own code."""
    knf = importlib.import_module("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.window_type = 0.0, "hamming"
    options.mel_opts.num_bins = 80
    audio = 0.1 * torch.randn(16000)
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(16000, (32768 * audio).tolist())
    bank.input_finished()
    original = torch.stack([torch.tensor(bank.get_frame(i)) for i in range(bank.num_frames_ready)])
    ours, lens = VoiceFbankConfig(style="wespeaker").build()(audio[None], torch.tensor([16000]))
    assert int(lens) == len(original)
    return float((original - ours[0]).abs().max())


def shifted_difference(part: Any) -> float:
    """Logits with sub-centres and the hardest wrong classes."""
    original = part.ArcMarginProduct_intertopk_subcenter(16, 20, margin=0.2)
    original.update(0.15)
    embeddings, targets = torch.randn(8, 16), torch.randint(20, (8,))
    ours = margin_logits(
        class_cosines(embeddings, original.weight, 3), targets, margin=0.15, scale=32.0, beyond="shifted",
        hardest=5, penalty=0.06 * 0.15 / 0.2,
    )  # fmt: skip
    return float((original(embeddings, targets) - ours).abs().max())


def wespeaker_planes() -> dict[str, Callable[[], torch.nn.Module]]:
    """The networks over spectrograms, in their published sizes."""
    resnet, campplus = wespeaker("models.resnet"), wespeaker("models.campplus")
    return {"ResNet34": lambda: resnet.ResNet34(80, 256), "CAM++": lambda: campplus.CAMPPlus(80)}


def _last(outputs: Any) -> Tensor:
    return outputs[-1] if isinstance(outputs, tuple) else outputs


@torch.inference_mode()
def main() -> None:
    lobes = speechbrain("lobes.models.ECAPA_TDNN")
    for channels, mfa in ((64, 96), (512, 1536)):
        torch.manual_seed(channels)
        model = trained(lobes.ECAPA_TDNN(80, channels=[channels] * 4 + [mfa]))
        rows = differences(model, lambda *x, model=model: model(*x)[:, 0], masks=True)
        for name, value in rows.items():
            print(f"SpeechBrain, C {channels}: {name}: {value:.2e}")
    print(f"SpeechBrain's features, dB: {feature_difference():.2e}")
    print(f"SpeechBrain's AAM logits: {margin_difference():.2e}")
    print(f"Kaldi's features: {kaldi_difference():.2e}")
    for context, norm in ((False, False), (True, True)) if len(sys.argv) > 1 else ():
        torch.manual_seed(1)
        part = wespeaker("models.ecapa_tdnn")
        model = trained(part.ECAPA_TDNN(64, global_context_att=context, emb_bn=norm))
        rows = differences(model, lambda x, model=model: model(x)[1], masks=False)
        for name, value in rows.items():
            print(f"wespeaker, context {context}: {name}: {value:.2e}")
    for name, build in wespeaker_planes().items() if len(sys.argv) > 1 else ():
        torch.manual_seed(2)
        model = trained(build())
        count = sum(p.numel() for p in model.parameters()) / 1e6
        rows = differences(model, lambda x, m=model: _last(m(x)), masks=False, convert=import_wespeaker)
        for what, value in rows.items():
            print(f"wespeaker, {name}, {count:.2f} M: {what}: {value:.2e}")
    if len(sys.argv) > 1:
        print(f"wespeaker's AAM logits: {shifted_difference(wespeaker('models.projections')):.2e}")


if __name__ == "__main__":
    main()
