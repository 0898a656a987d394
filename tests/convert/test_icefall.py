"""Import of icefall's checkpoints: recorded outputs, every kind of file and of model, and averaging."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
import torch
from torch import Tensor

import maya
from maya.convert import from_icefall, import_icefall
from maya.convert.heads import transducer_head
from maya.convert.icefall.config import read_config
from maya.convert.icefall.tokens import blank_first, read_tokenizer
from maya.encoders import Zipformer, ZipformerConfig
from maya.heads import AttentionDecoderConfig, CTCConfig
from maya.models.speech_model import SpeechModel
from maya.recipes import presets
from maya.recipes.cli import main
from maya.train.heads import read_heads
from tests.convert import icefall_files as files
from tests.convert.icefall_files import KINDS


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return files.tokens(tmp_path / "tokens.txt")


def close(output: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_recorded_outputs(shared: Path, tmp_path: Path) -> None:
    golden = torch.load(shared / "golden/icefall/zipformer_tiny.pt", weights_only=True)
    path = tmp_path / "pretrained.pt"
    torch.save({"model": golden["state_dict"]}, path)
    model = from_icefall(path, files.tokens(tmp_path / "tokens.txt", 40)).model
    assert isinstance(model.encoder, Zipformer)
    embed, embed_lens, _ = model.encoder.encoder_embed(golden["x"], golden["x_lens"])
    close(embed, golden["embed"])
    assert torch.equal(embed_lens, golden["embed_lens"])
    enc, enc_lens = model.encoder(golden["x"], golden["x_lens"])
    close(enc, golden["encoder_out"])
    assert torch.equal(enc_lens, golden["encoder_out_lens"])
    head = transducer_head(model)
    pred = head.decoder(golden["y"])
    close(pred, golden["decoder_out"])
    close(head.joint(enc[:, :4], pred[:, :3]), golden["joiner_out_first4x3"])
    close(model.heads["ctc"](enc), golden["ctc_log_probs"])
    am, lm = head.simple_joint(enc, pred)
    close(am, golden["simple_am"])
    close(lm, golden["simple_lm"])


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_every_kind_of_model(tmp_path: Path, tokens: Path, fields: dict[str, Any]) -> None:
    built = files.model(**fields)
    weights = files.state(built)
    path = files.save_epoch(tmp_path / "epoch-3.pt", weights, None, files.options(built.cfg))
    made = import_icefall(path, tokens)
    cfg = made.checkpoint.model_config
    assert cfg.encoder == built.cfg.encoder and list(cfg.heads) == list(built.cfg.heads)
    assert made.checkpoint.weights.keys() == built.state_dict().keys()
    for name, tensor in built.state_dict().items():
        assert torch.equal(made.checkpoint.weights[name], tensor)
    assert made.report.facts["attention heads"] == "the checkpoint's own options"
    assert not made.report.warnings and read_heads(made.checkpoint).trained == tuple(cfg.heads)
    weights = {name: head.weight for name, head in cfg.heads.items()}
    if transducer := cfg.heads.get("transducer"):
        assert transducer.loss == "pruned"
        assert transducer.pruned.s_range == 4 and transducer.pruned.warmup_steps == 300
        if "ctc" in weights:
            assert weights == pytest.approx({"transducer": 0.8, "ctc": 0.2})  # scales 1 and 0.25
            assert cfg.heads["ctc"].consistency_warmup == 300
    if "attention" in weights:
        assert weights == pytest.approx({"ctc": 0.25, "attention": 0.75})  # scales 0.25 and 0.75
        assert dataclasses.replace(cfg.heads["attention"], weight=0.5) == built.cfg.heads["attention"]


def test_weights_of_cr_ctc(tmp_path: Path, tokens: Path) -> None:
    """icefall adds cr_loss_scale · the consistency loss; Maya's weight is relative to that of CTC."""
    built = files.model()
    saved = files.options(built.cfg) | {"use_cr_ctc": True, "cr_loss_scale": 0.05}
    path = files.save_epoch(tmp_path / "epoch-1.pt", files.state(built), None, saved)
    ctc = import_icefall(path, tokens).checkpoint.model_config.heads["ctc"]
    assert ctc.consistency_weight * ctc.weight == pytest.approx(0.05 / 1.25)


def test_every_kind_of_file(tmp_path: Path, tokens: Path) -> None:
    built = files.model()
    weights, mean = files.state(built), files.state(files.model())
    saved = files.options(built.cfg)
    imported = []
    for name, payload in {
        "pretrained.pt": {"model": weights},
        "bare.pt": weights,
        "ddp.pt": {"model": {f"module.{k}": v for k, v in weights.items()}},
        "half.pt": {"model": {k: v.double() for k, v in weights.items()}},
    }.items():
        torch.save(payload, tmp_path / name)
        imported.append(import_icefall(tmp_path / name, tokens).checkpoint.weights)
    legacy = tmp_path / "legacy.pt"
    torch.save({"model": weights}, legacy, _use_new_zipfile_serialization=False)
    imported.append(import_icefall(legacy, tokens).checkpoint.weights)
    epoch = files.save_epoch(tmp_path / "epoch-3.pt", weights, mean, saved)
    imported.append(import_icefall(epoch, tokens).checkpoint.weights)
    assert all(torch.equal(each[k], imported[0][k]) for each in imported for k in imported[0])
    other = import_icefall(epoch, tokens, which="average").checkpoint.weights
    assert torch.equal(other["heads.transducer.joint.enc.weight"], mean["joiner.encoder_proj.weight"])


def test_mean_between_two_checkpoints(tmp_path: Path, tokens: Path) -> None:
    """Weights of 10 periods of 200 batches; both checkpoints were saved some batches after a period."""
    built = files.model()
    steps = [{k: torch.randn_like(v) for k, v in files.state(built).items()} for _ in range(10)]

    def mean(of: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: torch.stack([step[k].double() for step in of]).mean(0).float() for k in of[0]}

    saved = files.options(built.cfg)
    paths = [
        files.save_epoch(
            tmp_path / f"epoch-{n}.pt",
            steps[n - 1],
            mean(steps[:n]),
            saved | {"batch_idx_train": 200 * n + 77},
        )
        for n in (6, 10)
    ]
    made = import_icefall(paths[1], tokens, average_with=paths[0])
    right = mean(steps[6:])
    for name, saved_name in (
        ("encoder.downsample_output.bias", "encoder.downsample_output.bias"),
        ("heads.transducer.joint.enc.weight", "joiner.encoder_proj.weight"),
    ):
        close(made.checkpoint.weights[name], right[saved_name])
    assert "mean of 800 batches" in made.report.facts["weights"]


@pytest.mark.parametrize(
    ("preset", "size", "kind"),
    [
        (presets.zipformer_small, "Zipformer-S", "transducer and CTC"),
        (presets.zipformer_medium, "Zipformer-M", "transducer"),
        (presets.zipformer_medium, "Zipformer-M", "causal"),
        (presets.zipformer_large, "Zipformer-L", "CTC and attention"),
    ],
)
def test_recognises_published_sizes(preset: Any, size: str, kind: str, tmp_path: Path) -> None:
    cfg = preset()
    cfg.vocab_size, cfg.blank_first = 500, True
    cfg.encoder.causal = kind == "causal"
    if "attention" in kind:
        cfg.heads = {"attention": AttentionDecoderConfig()}
    if "CTC" in kind:
        cfg.heads["ctc"] = CTCConfig()
    with torch.device("meta"):
        weights = files.state(SpeechModel(cfg))
    described = read_config(weights, {}, tmp_path)
    config = described.config
    assert described.size == size and config.encoder == cfg.encoder
    assert config.features == cfg.features and config.specaugment == cfg.specaugment
    assert config.heads.keys() == cfg.heads.keys()
    for name in {"transducer", "attention"} & cfg.heads.keys():
        assert dataclasses.replace(config.heads[name], weight=1.0) == cfg.heads[name]


def test_the_number_of_attention_heads_is_guessed_or_given(tmp_path: Path, tokens: Path) -> None:
    built = files.model(encoder=files.tiny_zipformer.encoder(pos_head_dim=2, heads=(4, 4, 4)))
    path = tmp_path / "pretrained.pt"
    torch.save({"model": files.state(built)}, path)
    guessed = import_icefall(path, tokens)
    encoder = guessed.checkpoint.model_config.encoder
    assert encoder.heads == (2, 2, 2) and encoder.query_head_dim == 16
    assert guessed.report.facts["attention heads"].startswith("taken as 4")
    given = import_icefall(path, tokens, overrides=["encoder.heads=4,4,4", "encoder.unmasked_dims=12,24,24"])
    assert given.checkpoint.model_config.encoder == built.cfg.encoder


def test_sentencepiece_model_and_token_table(tmp_path: Path) -> None:
    made = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG"] * 20), model_writer=made,
        vocab_size=30, model_type="unigram", user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2,
        bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "bpe.model").write_bytes(made.getvalue())
    whole = read_tokenizer(tmp_path / "bpe.model")
    pieces = whole.pieces(range(whole.vocab_size))
    table = "".join(f"{piece} {i}\n" for i, piece in enumerate([*pieces, "#0", "#1"]))
    (tmp_path / "tokens.txt").write_text(table, encoding="utf-8")
    read = read_tokenizer(tmp_path / "tokens.txt")
    assert read.pieces(range(read.vocab_size)) == pieces and pieces[:3] == files.SPECIAL
    text = "THE LAZY FOX"
    assert read.decode(whole.encode(text)) == text and whole.decode(read.encode(text)) == text
    shifted = blank_first(read)
    assert shifted.pieces([0, 1, 4]) == ["<blk>", "<blk>", pieces[3]]
    assert shifted.encode(text) == [i + 1 for i in read.encode(text)]


def test_command_writes_a_checkpoint_that_transcribes(
    tmp_path: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = files.model()
    saved = files.options(built.cfg)
    first = files.save_epoch(tmp_path / "epoch-1.pt", files.state(built), files.state(built), saved)
    last = files.save_epoch(
        tmp_path / "epoch-2.pt", files.state(built), files.state(built), saved | {"batch_idx_train": 2000}
    )
    out = tmp_path / "out"
    command = ["convert", "icefall", str(last), str(out), "--tokens", str(tokens), "--avg-with", str(first)]
    assert main([*command, "--set", "encoder.padding=icefall"]) == 0
    output = capsys.readouterr().out
    assert "mean of 800 batches" in output and "stateless, 2 labels × 32" in output
    loaded = maya.load(out, "cpu")
    assert isinstance(loaded.model.cfg.encoder, ZipformerConfig)
    assert loaded.model.cfg.encoder.padding == "icefall"
    (hyp,) = loaded.transcribe([torch.randn(16000) * 0.1])
    assert hyp.text == loaded.tokenizer.decode(hyp.tokens) and 0 not in hyp.tokens
