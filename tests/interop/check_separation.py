"""Conv-TasNet against torchaudio's and asteroid's own classes, with the same random weights.

    python -m tests.interop.check_separation write FOLDER     where torchaudio and asteroid are installed
    python -m tests.interop.check_separation compare FOLDER   where Maya is

The two may be different environments: torchaudio is built against one version of torch. asteroid's classes
need `pip install --no-deps asteroid asteroid-filterbanks`; what its package imports besides is left out.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch

from tests.oracles import torchaudio

_ABSENT = (
    *(
        "soundfile",
        "huggingface_hub",
        "pytorch_lightning",
        "torchmetrics",
        "julius",
        "pb_bss_eval",
        "librosa",
    ),
    *(
        "pandas",
        "requests",
        "yaml",
        "filelock",
        "torch_optimizer",
        "torch_stoi",
        "pytorch_ranger",
        "packaging",
    ),
)


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that the classes do not use."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = MagicMock()
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def write(folder: Path) -> None:
    """Models, an input and their outputs."""
    ConvTasNet = torchaudio("models").ConvTasNet  # noqa: N806

    torch.manual_seed(1)
    x = torch.randn(2, 1, 4003) * 0.1
    torch.save(x, folder / "input.pt")
    size = {"enc_num_feats": 48, "msk_num_feats": 24, "msk_num_hidden_feats": 32, "msk_num_layers": 4,
            "msk_num_stacks": 2}  # fmt: skip
    for name, options in {
        "torchaudio-sigmoid": size, "torchaudio-relu": size | {"msk_activate": "relu"}, "torchaudio-full": {}
    }.items():  # fmt: skip
        model = shaken(ConvTasNet(**options))
        torch.save(model.state_dict(), folder / f"{name}.pt")
        torch.save(model(x).detach(), folder / f"{name}.out")
    sys.meta_path.insert(0, Absent())
    from asteroid.models.conv_tasnet import ConvTasNet as Asteroid  # noqa: PLC0415

    causal = {"causal": True, "mask_act": "relu", "encoder_activation": "relu"}
    for name, options in {
        "asteroid-gLN": {}, "asteroid-cgLN": {"causal": True, "norm_type": "cgLN"}, "asteroid-cLN": causal
    }.items():  # fmt: skip
        model = shaken(
            Asteroid(
                2, n_filters=48, bn_chan=24, hid_chan=32, skip_chan=20, n_blocks=4, n_repeats=2, **options
            )
        )
        saved = {"state_dict": model.state_dict(), "model_args": model.get_model_args()}
        torch.save(saved, folder / f"{name}.pt")
        torch.save(model(x).detach(), folder / f"{name}.out")


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def compare(folder: Path) -> None:
    """Print the largest differences; fails above 1e-5."""
    from maya.convert import import_conv_tasnet  # noqa: PLC0415
    from maya.models.separation import separate  # noqa: PLC0415

    audio = torch.load(folder / "input.pt")[:, 0]
    lens = torch.full((len(audio),), audio.shape[1])
    for path in sorted(folder.glob("*-*.pt")):
        mask = "relu" if path.stem.endswith("relu") else "sigmoid"
        layers = 8 if path.stem.endswith("full") else 4
        model = import_conv_tasnet(path, mask=mask, layers=layers).recognizer("cpu").model  # type: ignore[arg-type]
        expected = torch.load(path.with_suffix(".out"))
        difference = float((separate(model, audio, lens) - expected).abs().max())
        print(f"{path.stem}: {difference:.1e}, values up to {float(expected.abs().max()):.2f}")
        assert difference < 1e-5


if __name__ == "__main__":
    {"write": write, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
