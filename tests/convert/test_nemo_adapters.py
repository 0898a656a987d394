"""Adapters in `.nemo` archives: NeMo's LinearAdapter behind the encoder's layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maya.convert import from_nemo, import_nemo, to_nemo
from maya.errors import MayaError
from tests.convert.archives import archive, changed

DIM, WIDTH = 5, 32
LINEAR = "nemo.collections.common.parts.adapter_modules.LinearAdapter"
ADD = "nemo.core.classes.mixins.adapter_mixin_strategies.ResidualAddAdapterStrategy"


def settings(**fields: Any) -> dict[str, Any]:
    return {
        "_target_": LINEAR, "in_features": WIDTH, "dim": DIM, "activation": "swish", "norm_position": "pre",
        "dropout": 0.0, "adapter_strategy": {"_target_": ADD, "stochastic_depth": 0.0}, "enabled": True,
    } | fields  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    return archive(tmp_path_factory.mktemp("adapters") / "a.nemo")


def modules(name: str, seed: int = 0) -> list[nn.Sequential]:
    """NeMo's module of each layer, with random weights."""
    torch.manual_seed(seed)
    made = []
    for _ in range(2):
        module = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, DIM, bias=False), nn.SiLU(),
            nn.Linear(DIM, WIDTH, bias=False),
        )  # fmt: skip
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
        made.append(module)
    return made


def with_adapters(source: Path, out: Path, adapters: dict[str, Any], *names: str) -> Path:
    def change(config: dict[str, Any]) -> None:
        config["encoder"]["_target_"] = "nemo.collections.asr.modules.ConformerEncoderAdapter"
        config["adapters"] = adapters

    def add(weights: dict[str, Tensor]) -> None:
        for seed, name in enumerate(names):
            for n, module in enumerate(modules(name, seed)):
                prefix = f"encoder.layers.{n}.adapter_layer.{name}.module."
                weights.update({prefix + key: value for key, value in module.state_dict().items()})

    return changed(source, out, config=change, weights=add)


@pytest.mark.parametrize("key", ["mine", "encoder:mine"])
def test_an_adapter_stands_behind_each_layer(key: str, source: Path, tmp_path: Path) -> None:
    listed = {"global_cfg": {"check_encoder_adapter": True}, key: settings(), "old": settings(enabled=False)}
    path = with_adapters(source, tmp_path / "b.nemo", listed, "mine", "old")
    plain, adapted = from_nemo(source), from_nemo(path)
    audio, lens = torch.randn(1, 16000) * 0.1, torch.tensor([16000])
    for n, module in enumerate(modules("mine")):
        layer: Any = plain.model.encoder.layers[n]  # type: ignore[union-attr,index]
        layer.norm_out.register_forward_hook(lambda m, i, y, module=module: y + module(y))
    with torch.no_grad():
        right, _ = plain.encode(audio, lens)
        own, _ = adapted.encode(audio, lens)
    assert (own - right).abs().max() < 1e-5
    report = import_nemo(path).report
    assert "the adapter 'old' is disabled and left out" in report.warnings
    assert adapted.model.cfg.adapters.type == "nemo" and adapted.model.cfg.adapters.rank == DIM
    with pytest.raises(MayaError, match="writes no adapters for NeMo"):
        to_nemo(adapted, tmp_path / "c.nemo")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"decoder:mine": settings()}, "adapters.decoder:mine is in the decoder"),
    ({"mine": settings(_target_="a.RelPositionMultiHeadAttentionAdapter")}, "is a RelPositionMultiHead"),
    ({"mine": settings(), "mine2": settings()}, "adapters 'mine' and 'mine2' are both enabled"),
    ({"mine": settings(activation="relu")}, "adapters.mine.activation is 'relu'"),
    ({"mine": settings(norm_position="post")}, "adapters.mine.norm_position is 'post'"),
    ({"mine": settings(adapter_strategy={"_target_": "a.ReturnResultAdapterStrategy"})}, "not added to its"),
    ({"mine": settings(rotation=1)}, "adapters.mine.rotation = 1 is unknown"),
    ({"mine": settings(dim=7)}, "has shape"),
    ({"other": settings()}, "lacks tensors"),
]


@pytest.mark.parametrize(("listed", "sentence"), REFUSED)
def test_other_adapters_are_refused(
    listed: dict[str, Any], sentence: str, source: Path, tmp_path: Path
) -> None:
    path = with_adapters(source, tmp_path / "b.nemo", listed, "mine")
    with pytest.raises(MayaError, match=sentence):
        import_nemo(path)
