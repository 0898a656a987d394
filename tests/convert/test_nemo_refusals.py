"""Damaged archives and archives of other models are refused with one clear error each."""

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import from_nemo, import_nemo
from maya.errors import MayaError
from tests.convert.archives import archive, changed


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("nemo") / "a.nemo")


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(MayaError) as caught:
        from_nemo(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(path) in sentence
    for part in parts:
        assert part in sentence


def put(*names: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value deep inside the yaml."""

    def change(config: dict[str, Any]) -> None:
        for name in names[:-1]:
            config = config[name]
        config[names[-1]] = value

    return change


def test_files_of_another_kind_are_refused(tmp_path: Path, source: Path) -> None:
    refused(tmp_path / "none.nemo", "is not a file")
    text = tmp_path / "text.nemo"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(text, "not a .nemo archive")
    packed = tmp_path / "packed.nemo"
    packed.write_bytes(gzip.compress(b"not a tar" * 1000))
    refused(packed, "not a .nemo archive")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_archives_are_refused(tmp_path: Path, source: Path, share: float) -> None:
    content = source.read_bytes()
    cut = tmp_path / "cut.nemo"
    cut.write_bytes(content[: int(len(content) * share)])
    refused(cut, "truncated")
    zipped = changed(source, tmp_path / "z.nemo", mode="w:gz").read_bytes()
    cut.write_bytes(zipped[: int(len(zipped) * share)])
    refused(cut, "truncated")


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ("model_config.yaml", "has no model_config.yaml"),
        ("model_weights.ckpt", "has no model_weights.ckpt"),
        ("tokenizer.model", "tokenizer.model; it is incomplete"),
    ],
)
def test_missing_members_are_named(tmp_path: Path, source: Path, ending: str, sentence: str) -> None:
    refused(changed(source, tmp_path / "b.nemo", without=(ending,)), sentence)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put("target", value="nemo.x.SortformerEncLabelModel"), ("SortformerEncLabelModel", "EncDecCTC")),
        (
            put("encoder", "_target_", value="a.ConformerMultiLayerFeatureExtractor"),
            ("encoder is a", "Extractor"),
        ),
        (put("encoder", "new_trick", value=3), ("encoder.new_trick = 3", "--ignore encoder.new_trick")),
        (put("adapters", value={"a": 1}), ("adapters.a is 1",)),
        (put("num_prompts", value=128), ("num_prompts", "a prompt kernel")),
        (put("new_part", value={"a": 1}), ("new_part = {'a': 1}", "--ignore new_part")),
        (put("encoder", "reduction", value="pooling"), ("encoder.reduction is 'pooling'", "null")),
        (put("encoder", "subsampling", value="vggnet"), ("encoder.subsampling is 'vggnet'", "'striding'")),
        (put("encoder", "self_attention_model", value="abs_pos"), ("encoder.self_attention_model",)),
        (put("encoder", "d_model", value="wide"), ("encoder.d_model is 'wide'", "not a int")),
        (put("encoder", value=None), ("encoder is missing",)),
        (put("preprocessor", "normalize", value="all_features"), ("preprocessor.normalize", "per_feature")),
        (put("preprocessor", "mag_power", value=1.0), ("preprocessor.mag_power is 1.0", "2.0")),
        (put("decoder", "_target_", value="a.StatelessTransducerDecoder"), ("StatelessTransducerDecoder",)),
        (put("decoder", "blank_as_pad", value=False), ("decoder.blank_as_pad is false", "true")),
        (put("loss", "loss_name", value="multiblank_rnnt"), ("multiblank_rnnt", "RNN-T and TDT")),
        (put("joint", "num_extra_outputs", value=4), ("num_extra_outputs is 4", "5 durations")),
        (put("loss", "tdt_kwargs", value=[1]), ("loss.tdt_kwargs is [1]", "not a group of settings")),
        (put("loss", "tdt_kwargs", "durations", value=5), ("loss.tdt_kwargs.durations is 5", "not a list")),
        (put("loss", "tdt_kwargs", "sigma", value=None), ("loss.tdt_kwargs.sigma is null", "not a float")),
        (put("preprocessor", "window_size", value=float("nan")), ("preprocessor.window_size is nan",)),
        (put("tokenizer", "type", value="wpe"), ("tokenizer.type is 'wpe'", "SentencePiece")),
        (put("tokenizer", "model_path", value="tokenizer.model"), ("is not a file of the archive",)),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else "",
)
def test_settings_of_other_networks_are_refused(
    tmp_path: Path, source: Path, change: Any, parts: tuple[str, ...]
) -> None:
    refused(changed(source, tmp_path / "b.nemo", config=change), *parts)


@pytest.mark.parametrize(
    ("names", "value", "actual"),
    [
        (("encoder", "n_layers"), 3, 2),
        (("encoder", "n_heads"), 4, 2),
        (("encoder", "use_bias"), False, True),
        (("encoder", "conv_kernel_size"), 5, 9),
        (("encoder", "conv_norm_type"), "layer_norm", "batch_norm"),
        (("encoder", "subsampling_factor"), 8, 4),
        (("encoder", "subsampling"), "striding", "dw_striding"),
        (("encoder", "subsampling_conv_channels"), 16, 8),
        (("encoder", "ff_expansion_factor"), 2, 4),
        (("decoder", "prednet", "pred_rnn_layers"), 2, 1),
        (("joint", "jointnet", "joint_hidden"), 48, 32),
    ],
)
def test_weights_that_contradict_the_yaml_are_refused(
    tmp_path: Path, source: Path, names: tuple[str, ...], value: Any, actual: Any
) -> None:
    path = changed(source, tmp_path / "b.nemo", config=put(*names, value=value))
    refused(path, f"{'.'.join(names)} is {value}", f"the weights have {actual}")


def test_weights_of_another_vocabulary_or_width_are_refused(tmp_path: Path, source: Path) -> None:
    def grown(state: dict[str, Any]) -> None:
        for name in ("decoder.prediction.embed.weight", "joint.joint_net.1.weight", "joint.joint_net.1.bias"):
            state[name] = torch.cat([state[name], state[name][:3]])

    refused(changed(source, tmp_path / "b.nemo", weights=grown), "the vocabulary of the tokenizer is 40")
    filters = {"preprocessor.featurizer.fb": torch.rand(1, 80, 257)}
    refused(changed(source, tmp_path / "c.nemo", weights=lambda w: w | filters), "preprocessor section")


@pytest.mark.parametrize(("kind", "change"), [("int8", Tensor.char), ("complex64", lambda t: t * 1j),
                                               ("sparse_coo", Tensor.to_sparse)])  # fmt: skip
def test_weights_of_another_kind_are_refused(tmp_path: Path, source: Path, kind: str, change: Any) -> None:
    """Quantised weights would be read as the numbers that stand for them."""
    name = "encoder.layers.1.norm_out.weight"
    path = changed(source, tmp_path / "b.nemo", weights=lambda w: w | {name: change(w[name])})
    refused(path, f"{name} is a tensor of ", kind, "expected floating point, strided")


def test_missing_and_unexpected_weights_are_refused(tmp_path: Path, source: Path) -> None:
    adapter = {"encoder.adapter.weight": torch.zeros(1), "encoder.z": torch.zeros(1)}
    refused(
        changed(source, tmp_path / "b.nemo", weights=lambda w: w | adapter),
        "encoder.adapter.weight, encoder.z",
    )
    name = "encoder.layers.1.norm_out.weight"
    fewer = changed(source, tmp_path / "c.nemo", weights=lambda w: {k: v for k, v in w.items() if k != name})
    refused(fewer, "lacks tensors", name)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(tmp_path: Path, source: Path) -> None:
    trap = tmp_path / "sprung"
    path = changed(source, tmp_path / "b.nemo", weights=lambda w: w | {"x": _Trap(trap)})
    refused(path, "objects other than tensors")
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Trap(trap)))
    assert trap.exists()  # the trap works


def test_ignored_keys(tmp_path: Path, source: Path) -> None:
    path = changed(source, tmp_path / "b.nemo", config=put("encoder", "new_trick", value=3))
    made = import_nemo(path, ignore=["encoder.new_trick"])
    assert made.checkpoint.weights.keys() == import_nemo(source).checkpoint.weights.keys()
