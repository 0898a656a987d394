"""Archives whose yaml has keys of newer models, and encoders of classes that Maya does not have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import import_nemo
from maya.errors import MayaError
from maya.features import LogMelConfig
from tests.convert.archives import archive, changed, tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("relatives") / "a.nemo")


UNIFIED = {
    "att_context_size": [-1, -1],
    "att_chunk_context_size": [[70], [1, 2, 7, 13], [0, 1, 2, 3]],
    "att_context_style": "chunked_limited_with_rc",
    "conv_context_style": "dcc",
}


def test_parakeet_unified_is_an_offline_model(source: Path, tmp_path: Path) -> None:
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c["encoder"].update(UNIFIED))
    made, plain = import_nemo(path), import_nemo(source)
    assert made.checkpoint.model_config == plain.checkpoint.model_config
    assert any("att_chunk_context_size" in warning for warning in made.report.warnings)
    bounded = UNIFIED | {"att_context_size": [70, 7]}
    path = changed(source, tmp_path / "c.nemo", config=lambda c: c["encoder"].update(bounded))
    with pytest.raises(MayaError, match="whole utterances"):
        import_nemo(path)


def test_start_values_of_end_of_turn_tokens_are_passed_over(source: Path, tmp_path: Path) -> None:
    keys = {"token_init_method": "constant", "token_init_weight_value": None, "token_init_bias_value": -1000}
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c.update(keys))
    assert import_nemo(path).report.warnings == import_nemo(source).report.warnings


def test_the_class_with_place_for_adapters_is_taken_without_any(source: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["encoder"]["_target_"] = "nemo.collections.asr.modules.ConformerEncoderAdapter"

    def add(weights: dict[str, Tensor]) -> None:
        weights["encoder.layers.0.adapter_layer.one.module.0.weight"] = torch.ones(3)

    assert import_nemo(changed(source, tmp_path / "b.nemo", config=change))
    with pytest.raises(MayaError, match="adapter_layer.one"):
        import_nemo(changed(source, tmp_path / "c.nemo", config=change, weights=add))


def test_an_unknown_single_value_at_the_top_is_a_warning(source: Path, tmp_path: Path) -> None:
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c.update(new_metric=True))
    assert "new_metric = true is unknown to Maya and was passed over" in import_nemo(path).report.warnings
    ignored = import_nemo(path, ignore=["new_metric"]).report.warnings
    assert not any("new_metric" in warning for warning in ignored)


@pytest.mark.parametrize(
    ("target", "others"),
    [
        ("EncDecMultiTaskModel", {"transf_decoder": {"a": 1}, "prompt_format": "canary2"}),
        ("SortformerEncLabelModel", {"sortformer_modules": {"fc_d_model": 512}, "max_num_of_spks": 4}),
        ("EncDecDenoiseMaskedTokenPredModel", {"quantizer": {"num_books": 1}, "decoder_out": -1}),
    ],
)
def test_encoders_of_other_classes(source: Path, tmp_path: Path, target: str, others: dict[str, Any]) -> None:
    """Canary, Sortformer and NEST: the encoder as it is, a new CTC head for the tokenizer that is given."""

    def change(config: dict[str, Any]) -> None:
        for name in ("decoder", "joint", "loss", "aux_ctc"):
            config.pop(name, None)
        config["tokenizer"] = {"type": "agg", "custom_tokenizer": {"_target_": "x.Canary"}}
        config.update(target=f"nemo.x.{target}", **others)

    def move(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {n: x for n, x in weights.items() if n.startswith(("encoder.", "preprocessor."))}
        return kept | {"transf_decoder.layers.0.weight": torch.ones(2), "log_softmax.bias": torch.ones(2)}

    path = changed(source, tmp_path / "b.nemo", config=change, weights=move)
    with pytest.raises(MayaError, match=f"{target}.*--encoder-only"):
        import_nemo(path)
    with pytest.raises(MayaError, match="--tokenizer"):
        import_nemo(path, encoder_only=True)
    made, plain = import_nemo(path, encoder_only=True, tokenizer=tokenizer()), import_nemo(source)
    assert made.report.new == ("ctc",) and "left behind: log_softmax, transf_decoder" in made.report.warnings
    for name, tensor in plain.checkpoint.weights.items():
        if name.startswith("encoder."):
            assert torch.equal(made.checkpoint.weights[name], tensor), name
    features = made.checkpoint.model_config.features
    assert isinstance(features, LogMelConfig) and made.recognizer("cpu").model.encoder is not None
