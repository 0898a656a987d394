"""Files of weights with torchaudio's and asteroid's names, which the test writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import import_conv_tasnet
from maya.convert.conv_tasnet import our_name
from maya.encoders import ConvTasNetConfig
from maya.errors import MayaError
from maya.models.separation import separate, separation_model
from maya.models.speech_model import SpeechModel

SIZES: dict[str, Any] = {"filters": 12, "bottleneck": 10, "hidden": 14, "skip": 6, "layers": 2, "stacks": 3}


def torchaudio_state(model: SpeechModel) -> dict[str, Tensor]:
    """The weights of a model by torchaudio's names."""
    names = {"encoder.encoder.weight": "encoder.weight", "heads.separation.decoder.weight": "decoder.weight"}
    return {names.get(n, n.removeprefix("encoder.")): x for n, x in model.state_dict().items()}


def asteroid_state(model: SpeechModel, *, causal: bool) -> dict[str, Tensor]:
    """The weights by asteroid's names; its last block has a residual that nothing reads."""
    state: dict[str, Tensor] = {}
    for name, x in model.state_dict().items():
        name = name.replace("encoder.encoder.weight", "encoder.filterbank._filters")
        name = name.replace("heads.separation.decoder.weight", "decoder.filterbank._filters")
        name = name.replace("encoder.mask_generator.", "masker.")
        norm = "input_norm" in name or ".conv_layers.2." in name or ".conv_layers.5." in name
        if norm:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        for ours, other in {
            "input_norm": "bottleneck.0", "input_conv": "bottleneck.1", "output_prelu": "mask_net.0",
            "output_conv": "mask_net.1", "res_out": "res_conv", "skip_out": "skip_conv",
        }.items():  # fmt: skip
            name = name.replace(ours, other)
        outer, dot, inner = name.partition(".conv_layers.")[0], "TCN", name.partition(".conv_layers.")[2]
        if inner:
            number, _, rest = inner.partition(".")
            rest = rest.replace("conv_layers.", "shared_block.")
            rest = rest.replace("shared_block.3.", "shared_block.3.0.") if causal else rest
            name = f"{outer}.{dot}.{number}.{rest}"
        state[name] = x
    last = SIZES["layers"] * SIZES["stacks"] - 1
    state[f"masker.TCN.{last}.res_conv.weight"] = torch.randn(SIZES["bottleneck"], SIZES["hidden"], 1)
    state[f"masker.TCN.{last}.res_conv.bias"] = torch.randn(SIZES["bottleneck"])
    return state


def original(**options: Any) -> SpeechModel:
    torch.manual_seed(4)
    return SpeechModel(separation_model(ConvTasNetConfig(**SIZES, **options), 8000)).eval()


def same(model: SpeechModel, path: Path, **options: Any) -> ConvTasNetConfig:
    made = import_conv_tasnet(path, **options)
    audio, lens = torch.randn(1, 999), torch.tensor([999])
    network = made.recognizer("cpu").model
    assert torch.equal(separate(network, audio, lens), separate(model, audio, lens))
    encoder = network.cfg.encoder
    assert isinstance(encoder, ConvTasNetConfig)
    return encoder


def test_torchaudio_weights_load_by_name(tmp_path: Path) -> None:
    model = original(mask_activation="relu")
    torch.save(torchaudio_state(model), tmp_path / "model.pt")
    encoder = same(model, tmp_path / "model.pt", mask="relu", layers=2)
    assert (encoder.layers, encoder.stacks, encoder.padded, encoder.norm) == (2, 3, True, "global")
    with pytest.raises(MayaError, match="6 blocks, which are not stacks of 4: set --layers"):
        import_conv_tasnet(tmp_path / "model.pt", layers=4)


@pytest.mark.parametrize(("norm_type", "norm", "causal"), [
    ("gLN", "global", False), ("cgLN", "cumulative", True), ("gLN", "channel", True),
])  # fmt: skip
def test_asteroid_models_load_by_name(tmp_path: Path, norm_type: str, norm: Any, causal: bool) -> None:
    model = original(norm=norm, causal=causal, padded=False)
    args = {"norm_type": norm_type, "mask_act": "sigmoid", "n_blocks": 2, "stride": 8, "sample_rate": 16000}
    torch.save({"state_dict": asteroid_state(model, causal=causal), "model_args": args}, tmp_path / "m.pth")
    encoder = same(model, tmp_path / "m.pth")
    assert (encoder.norm, encoder.causal, encoder.padded) == (norm, causal, False)
    assert import_conv_tasnet(tmp_path / "m.pth").checkpoint.model_config.features.sample_rate == 16000


def test_files_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(MayaError, match="there is no file"):
        import_conv_tasnet(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(MayaError, match="is no file of weights that torch can read safely"):
        import_conv_tasnet(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(MayaError, match="holds no Conv-TasNet of torchaudio or asteroid"):
        import_conv_tasnet(path)
    state = torchaudio_state(original())
    torch.save(state | {"mask_generator.extra": torch.zeros(1)}, path)
    with pytest.raises(MayaError, match="does not have: mask_generator.extra"):
        import_conv_tasnet(path, layers=2)
    del state["mask_generator.output_conv.bias"]
    torch.save(state, path)
    with pytest.raises(MayaError, match="lacks tensors of a Conv-TasNet"):
        import_conv_tasnet(path, layers=2)
    assert our_name("unrelated.name") == "unrelated.name"
