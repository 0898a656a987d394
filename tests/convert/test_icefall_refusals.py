"""Refusals of icefall's checkpoints, each in one sentence that names the tensor, object or file."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import import_icefall
from maya.convert.icefall.config import read_config
from maya.errors import MayaError
from tests.convert import icefall_files as files

Weights = dict[str, Tensor]


class Custom:
    """An object of a class that icefall does not save."""


class Shell:
    """Runs a command when it is unpickled without restrictions."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def refused(path: Path, message: str, **options: Any) -> None:
    tokens = options.pop("tokens", None) or files.tokens(path.parent / "tokens.txt")
    with pytest.raises(MayaError, match=message) as caught:
        import_icefall(path, tokens, **options)
    assert "\n" not in str(caught.value)


def without(name: str) -> Callable[[Weights], object]:
    return lambda w: w.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("joiner.output_linear.bias"), r"lacks tensors .*: joiner.output_linear.bias$"),
        (without("encoder.encoders.1.encoder.layers.1.norm.bias"), r"encoders.1.encoder.layers.1.norm.bias"),
        (without("encoder_embed.conv.4.weight"), "has no encoder_embed.conv.4.weight"),
        (without("ctc_output.1.weight"), "lacks tensors .*ctc_output.1.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), r"that a Zipformer .* does not have: extra$"),
        (lambda w: w.update({"decoder.other": torch.zeros(1)}), "does not have: decoder.other"),
        (
            lambda w: w.update({"simple_am_proj.bias": torch.zeros(19)}),
            r"simple_am_proj.bias has shape \(19,\), but in a Zipformer of its shape it has \(20,\)",
        ),
        (
            lambda w: w.update({"ctc_output.1.weight": torch.zeros(20, 31)}),
            r"ctc_output.1.weight has shape \(20, 31\), but in a Zipformer of its shape it has \(20, 32\)",
        ),
        (
            lambda w: w.update({"encoder.encoders.1.encoder.layers.0.bypass.bypass_scale": torch.zeros(40)}),
            "40",
        ),
        (
            lambda w: w.update(
                {"encoder.encoders.0.layers.0.self_attn_weights.in_proj.weight": torch.zeros(41, 16)}
            ),
            "query_head_dim.*encoder.heads=",
        ),
        (lambda w: w.update({"module.joiner.output_linear.bias": torch.zeros(20)}), "twice"),
        (lambda w: w.update({"joiner.output_linear.bias": 3.0}), "joiner.output_linear.bias of type float"),
        (lambda w: w.clear() or w.update({"fc.weight": torch.zeros(1)}), "no Zipformer of icefall"),
        (
            lambda w: w.update({"encoder.encoders.0.layers.0.self_attn.in_proj.weight": torch.zeros(1)}),
            "pruned_transducer_stateless7",
        ),
    ],
)
def test_tensors_of_wrong_shapes_are_refused(
    tmp_path: Path, change: Callable[[Weights], object], message: str
) -> None:
    weights = files.state(files.model())
    change(weights)
    torch.save({"model": weights}, tmp_path / "pretrained.pt")
    refused(tmp_path / "pretrained.pt", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_encoder_layers": "1,2,2"}, "num_encoder_layers=1,2,2, but its tensors show 1,2,1"),
        ({"encoder_dim": "16,32,32"}, "encoder_dim=16,32,32, but its tensors show 16,32,24"),
        ({"query_head_dim": "8,4,8"}, "query_head_dim=8,4,8, but its tensors show 8"),
        ({"num_heads": "4,2,2"}, r"4,2,2 heads \(the checkpoint's own options\) do not share"),
        ({"num_heads": "2,2"}, "3 stacks"),
        ({"causal": True}, "causal=True, but its tensors show False"),
        ({"vocab_size": 500}, "vocab_size=500"),
        ({"blank_id": 3}, "blank_id=3"),
        ({"joiner_dim": 33}, "joiner_dim=33"),
        ({"feature_dim": 100}, "feature_dim=100 does not fit encoder_embed.out.weight"),
        ({"use_ctc": False}, "use_ctc=False"),
        ({"warm_step": float("nan")}, "option warm_step is nan, not a finite number"),
        ({"prune_range": float("inf")}, "option prune_range is inf, not a finite number"),
    ],
)
def test_options_that_contradict_the_tensors_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    built = files.model()
    saved = files.options(built.cfg) | options
    refused(files.save_epoch(tmp_path / "epoch-1.pt", files.state(built), None, saved), message)


def test_overrides_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    torch.save(files.state(files.model()), path)
    refused(path, "feed_forward1.in_proj.weight", overrides=["encoder.ff_dims=64,32,32"])
    refused(path, "unknown option 'encoder.width'", overrides=["encoder.width=3"])
    refused(path, "2,3,2 heads", overrides=["encoder.heads=2,3,2"])


def test_vocabularies_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    torch.save(files.state(files.model()), path)
    refused(
        path,
        r"other.txt has 30 pieces, but .*pretrained.pt was trained with 20",
        tokens=files.tokens(tmp_path / "other.txt", 30),
    )
    shifted = tmp_path / "shifted.txt"
    shifted.write_text("<unk> 0\n<blk> 1\n")
    refused(path, "piece 0 is '<unk>', not '<blk>'", tokens=shifted)
    for text, message in (
        ("<blk> 0\na b 1\n", "line 2: 'a b 1' is not a piece and its id"),
        ("<blk> 0\na ²\n", "line 2: 'a ²' is not a piece and its id"),
        ("<blk> 0\n<unk> 20000\n", "2 pieces, but ids up to 20000"),
        ("<blk> 0\n<unk> 0\n", "id 0 stands for '<blk>' too"),
        ("<blk> 0\na 1\n", "has no piece '<unk>'"),
        ("", "piece 0 is missing"),
    ):
        shifted.write_text(text)
        refused(path, message, tokens=shifted)
    refused(path, "cannot read the tokens", tokens=tmp_path / "absent.txt")
    refused(path, "cannot read the tokenizer", tokens=tmp_path / "absent.model")
    aed = tmp_path / "aed.pt"
    torch.save(files.state(files.model(**files.KINDS["CTC and attention"])), aed)
    shifted.write_text(files.tokens(tmp_path / "t.txt").read_text(encoding="utf-8").replace("<sos/eos>", "x"))
    refused(aed, "no piece '<sos/eos>'", tokens=shifted)
    given = import_icefall(aed, shifted, overrides=["heads.attention.eos=1"]).checkpoint
    assert given.model_config.heads["attention"].eos == 1


def test_damaged_and_unknown_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    refused(path, "pretrained.pt is not a file")
    path.write_bytes(b"")
    refused(path, "pretrained.pt is not a checkpoint, or damaged")
    path.write_bytes(b"\x80\x02 nothing that was saved by torch")
    refused(path, "pretrained.pt is not a checkpoint, or damaged")
    torch.save({"model": files.state(files.model())}, path)
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 30, 100):
        path.write_bytes(content[:size])
        refused(path, "pretrained.pt is not a checkpoint, or damaged")
    torch.save([torch.zeros(1)], path)
    refused(path, "holds a list, not a dict")
    torch.save({"weights": 1}, path)
    refused(path, "has weights, but no `model`")
    torch.save({"model": {}}, path)
    refused(path, "`model` is not a state dict")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    refused(path, "no modules of icefall's Zipformer, perhaps because it was traced")


@pytest.mark.parametrize("zipped", [True, False])
def test_unknown_pickled_objects_are_not_run(tmp_path: Path, zipped: bool) -> None:
    weights, path, trace = files.state(files.model()), tmp_path / "epoch-1.pt", tmp_path / "trace"
    for extra, message in (
        (Custom(), "pickled tests.convert.test_icefall_refusals.Custom, which icefall does not save"),
        (Shell(f"touch {trace}"), "pickled posix.system, which icefall does not save"),
        (print, "pickled print, which icefall does not save"),
    ):
        torch.save({"model": weights, "extra": extra}, path, _use_new_zipfile_serialization=zipped)
        refused(path, message)
    assert not trace.exists()
    with pytest.raises(pickle.UnpicklingError):  # the permission ends after a file is read
        torch.save({"path": Path("a")}, path)
        torch.load(path, weights_only=True)


def test_impossible_averages_are_refused(tmp_path: Path) -> None:
    built = files.model()
    weights, saved = files.state(built), files.options(built.cfg)
    first = files.save_epoch(tmp_path / "epoch-1.pt", weights, weights, saved)
    last = files.save_epoch(tmp_path / "epoch-2.pt", weights, weights, saved | {"batch_idx_train": 2400})
    plain = files.save_epoch(tmp_path / "plain.pt", weights, None, saved)
    refused(first, "the earlier one", average_with=last)
    refused(first, "the earlier one", average_with=first)
    refused(last, "plain.pt has no model_avg", average_with=plain)
    refused(plain, "plain.pt has no model_avg", which="average")
    fewer = {k: v for k, v in weights.items() if k != "joiner.output_linear.bias"}
    other = files.save_epoch(tmp_path / "other.pt", weights, fewer, saved)
    refused(last, "not from one training: they differ in joiner.output_linear.bias", average_with=other)
    uncounted = {k: v for k, v in saved.items() if k != "batch_idx_train"}
    refused(last, "no batch_idx_train", average_with=files.save_epoch(other, weights, weights, uncounted))


def test_unreadable_head_counts_are_assumed(tmp_path: Path) -> None:
    """A count that is not a number is none: the report says what is assumed."""
    built = files.model(**files.AED)
    saved = files.options(built.cfg) | {"attention_decoder_num_heads": "8,8"}
    described = read_config(files.state(built), saved, tmp_path)
    assert any("assumed to have" in warning for warning in described.warnings)
