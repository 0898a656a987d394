"""Models exported to icefall come back bit for bit; a blank at the end moves to the front."""

from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.convert import from_icefall, import_icefall, to_icefall
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import ZipformerConfig
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.heads import AttentionDecoderConfig
from maya.heads.transducer import PredictorConfig
from maya.recipes.cli import main
from maya.recipes.convert import convert_icefall
from tests.convert import archives
from tests.convert import icefall_files as files
from tests.convert.icefall_files import KINDS


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_round_trip_of_every_kind(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = files.recognizer(tmp_path, **fields)
    report = to_icefall(model, tmp_path / "out").text()
    assert "--num-heads 2,2,2" in report and ("--causal 1" in report) == bool(fields.get("causal"))
    saved = torch.load(tmp_path / "out" / "pretrained.pt", weights_only=True)
    expected = files.state(model.model)
    assert list(saved["model"]) == list(expected)
    assert any(name.endswith("layers.0.bypass_scale") for name in expected)
    assert all(torch.equal(saved["model"][name], expected[name]) for name in expected)
    made = import_icefall(tmp_path / "out/pretrained.pt", tmp_path / "out/bpe.model").checkpoint
    assert made.model_config.encoder == model.model.cfg.encoder
    assert made.tokenizer.model_bytes == model.tokenizer.model_bytes
    ours = model.model.state_dict()
    assert all(torch.equal(made.weights[name], ours[name]) for name in ours)


def test_round_trip_of_icefalls_state_dict(shared: Path, tmp_path: Path) -> None:
    golden = torch.load(shared / "golden/icefall/zipformer_tiny.pt", weights_only=True)["state_dict"]
    torch.save(golden, tmp_path / "bare.pt")
    model = from_icefall(tmp_path / "bare.pt", files.tokens(tmp_path / "tokens.txt", 40))
    to_icefall(model, tmp_path / "out")
    saved = torch.load(tmp_path / "out" / "pretrained.pt", weights_only=True)["model"]
    assert saved.keys() == golden.keys() and all(torch.equal(saved[k], golden[k]) for k in golden)
    assert all(saved[k].shape == golden[k].shape for k in golden)


@torch.inference_mode()
def test_blank_moves_to_the_front(tmp_path: Path) -> None:
    pieces = archives.tokenizer(vocab_size=30)
    built = files.model(blank_first=False, vocab_size=pieces.vocab_size)
    model = Recognizer(model=built, tokenizer=pieces, device=torch.device("cpu"))
    to_icefall(model, tmp_path)
    other = from_icefall(tmp_path / "pretrained.pt", tmp_path / "bpe.model")
    assert other.model.cfg.vocab_size == pieces.vocab_size + 1 and other.tokenizer.pieces([0]) == ["<blk>"]
    audio = torch.randn(2, 32000) * 0.1
    encoded = built.encode_audio(audio, torch.tensor([32000, 20000]))
    for head in ("transducer", "ctc"):
        hyps, moved = greedy(built, encoded, head), greedy(other.model, encoded, head)
        assert any(h.tokens for h in hyps)
        for a, b in zip(hyps, moved, strict=True):
            assert [i + 1 for i in a.tokens] == b.tokens and a.frames == b.frames
            assert pieces.decode(a.tokens) == other.tokenizer.decode(b.tokens)


def test_command_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(files.state(files.model()), tmp_path / "bare.pt")
    convert_icefall(tmp_path / "bare.pt", tmp_path / "run", files.tokens(tmp_path / "tokens.txt"))
    assert main(["export", "icefall", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "start icefall's programs with" in capsys.readouterr().out
    table = (tmp_path / "out/tokens.txt").read_text(encoding="utf-8")
    assert table == (tmp_path / "tokens.txt").read_text(encoding="utf-8")
    again = maya.load(
        convert_icefall(tmp_path / "out/pretrained.pt", tmp_path / "again", tmp_path / "out/tokens.txt")
    )
    assert isinstance(again.model.cfg.encoder, ZipformerConfig)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": files.tiny_zipformer.encoder(front_channels=(4, 8, 16))}, "8, 32, 128 channels"),
        ({"encoder": files.tiny_zipformer.encoder(output_downsampling=4)}, "output at 25 Hz"),
        ({"features": FbankConfig(preemphasis=0.9)}, "defaults of FbankConfig"),
        ({"transducer": "rnnt"}, "two projections of pruned RNN-T"),
        ({"transducer": "tdt"}, "RNN-T with tanh"),
        (
            {"predictor": PredictorConfig(hidden=32, layers=1), "blank_first": False},
            "stateless predictors; this model has lstm",
        ),
        ({"language_embedding": True, "languages": ("en",)}, "no language embedding"),
        ({"transducer": "none", "ctc_weight": 0.0, **files.AED}, "a transducer or a CTC head"),
        (files.AED | {"attention_decoder": AttentionDecoderConfig(layers=1)}, "does with blank"),
        (files.AED | {"attention_decoder": AttentionDecoderConfig(layers=1, eos=5)}, "with '▁2'"),
    ],
)
def test_refuses_parts_that_icefall_lacks(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MayaError, match=message):
        to_icefall(files.recognizer(tmp_path, **fields), tmp_path / "out")


def test_refuses_other_encoders(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="supports Zipformers on filter banks; this model has fastconformer"):
        to_icefall(archives.recognizer(), tmp_path)
