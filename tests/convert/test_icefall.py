"""icefall's checkpoints: every recorded output, every kind of file and of model, and averaging."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
import torch
from torch import Tensor

import maya
from maya.convert import from_icefall, import_icefall
from maya.convert.icefall.config import read_config
from maya.convert.icefall.tokens import blank_first, read_tokenizer
from maya.encoders import Zipformer, ZipformerConfig
from maya.models.speech_model import SpeechModel
from maya.recipes import presets
from maya.recipes.cli import main
from tests.convert import icefall_files as files
from tests.convert.icefall_files import KINDS


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return files.tokens(tmp_path / "tokens.txt")


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@torch.no_grad()
def test_every_recorded_output(shared: Path, tmp_path: Path) -> None:
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
    pred = model.decoder(golden["y"])
    close(pred, golden["decoder_out"])
    close(model.joint(enc[:, :4], pred[:, :3]), golden["joiner_out_first4x3"])
    close(model.ctc_decoder(enc), golden["ctc_log_probs"])
    am, lm = model.simple_joint(enc, pred)
    close(am, golden["simple_am"])
    close(lm, golden["simple_lm"])


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_every_kind_of_model(tmp_path: Path, tokens: Path, fields: dict[str, Any]) -> None:
    built = files.model(**fields)
    weights = files.state(built)
    path = files.save_epoch(tmp_path / "epoch-3.pt", weights, None, files.options(built.cfg))
    made = import_icefall(path, tokens)
    cfg = made.checkpoint.model_config
    assert cfg.encoder == built.cfg.encoder and cfg.transducer == built.cfg.transducer
    assert made.checkpoint.weights.keys() == built.state_dict().keys()
    for name, tensor in built.state_dict().items():
        assert torch.equal(made.checkpoint.weights[name], tensor)
    assert made.report.facts["heads"] == "the checkpoint's own options" and not made.report.warnings
    if cfg.transducer == "pruned":
        assert cfg.pruned.s_range == 4 and cfg.loss_warmup == 300
        assert cfg.ctc_weight == (pytest.approx(0.2) if built.cfg.ctc_weight else 0)  # 0.25 of 1.25
    if cfg.attention_weight:
        assert cfg.attention_decoder == built.cfg.attention_decoder
        assert (cfg.ctc_weight, cfg.attention_weight) == (1.0, 0.75)


def test_files_of_every_sort_hold_the_same_model(tmp_path: Path, tokens: Path) -> None:
    built = files.model()
    weights, mean = files.state(built), files.state(files.model())
    saved = files.options(built.cfg)
    found = []
    for name, payload in {
        "pretrained.pt": {"model": weights},
        "bare.pt": weights,
        "ddp.pt": {"model": {f"module.{k}": v for k, v in weights.items()}},
        "half.pt": {"model": {k: v.double() for k, v in weights.items()}},
    }.items():
        torch.save(payload, tmp_path / name)
        found.append(import_icefall(tmp_path / name, tokens).checkpoint.weights)
    legacy = tmp_path / "legacy.pt"
    torch.save({"model": weights}, legacy, _use_new_zipfile_serialization=False)
    found.append(import_icefall(legacy, tokens).checkpoint.weights)
    epoch = files.save_epoch(tmp_path / "epoch-3.pt", weights, mean, saved)
    found.append(import_icefall(epoch, tokens).checkpoint.weights)
    assert all(torch.equal(one[k], found[0][k]) for one in found for k in found[0])
    other = import_icefall(epoch, tokens, which="average").checkpoint.weights
    assert torch.equal(other["joint.enc.weight"], mean["joiner.encoder_proj.weight"])


def test_two_checkpoints_give_the_mean_between_them(tmp_path: Path, tokens: Path) -> None:
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
    for ours, theirs in (
        ("encoder.downsample_output.bias", None),
        ("joint.enc.weight", "joiner.encoder_proj.weight"),
    ):
        close(made.checkpoint.weights[ours], right[theirs or ours])
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
def test_published_sizes_are_known_by_their_shapes(preset: Any, size: str, kind: str, tmp_path: Path) -> None:
    cfg = preset()
    cfg.vocab_size, cfg.blank_first = 500, True
    cfg.encoder.causal = kind == "causal"
    for name, value in KINDS[kind].items():
        if name not in ("causal", "attention_decoder"):  # the latter has icefall's size by default
            setattr(cfg, name, value)
    with torch.device("meta"):
        weights = files.state(SpeechModel(cfg))
    described = read_config(weights, {}, tmp_path)
    found = described.config
    assert described.size == size and found.encoder == cfg.encoder and found.transducer == cfg.transducer
    assert found.features == cfg.features and found.specaugment == cfg.specaugment
    assert found.attention_decoder == cfg.attention_decoder
    if cfg.transducer != "none":
        assert (found.predictor, found.joint, found.pruned) == (cfg.predictor, cfg.joint, cfg.pruned)


def test_heads_that_shapes_do_not_tell(tmp_path: Path, tokens: Path) -> None:
    built = files.model(encoder=files.tiny_zipformer.encoder(pos_head_dim=2, heads=(4, 4, 4)))
    path = tmp_path / "pretrained.pt"
    torch.save({"model": files.state(built)}, path)
    guessed = import_icefall(path, tokens)
    encoder = guessed.checkpoint.model_config.encoder
    assert encoder.heads == (2, 2, 2) and encoder.query_head_dim == 16
    assert guessed.report.facts["heads"].startswith("taken as 4")
    told = import_icefall(path, tokens, overrides=["encoder.heads=4,4,4", "encoder.unmasked_dims=12,24,24"])
    assert told.checkpoint.model_config.encoder == built.cfg.encoder


def test_a_sentencepiece_model_and_a_table_of_it(tmp_path: Path) -> None:
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


def test_the_command_writes_a_checkpoint_that_transcribes(
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
    said = capsys.readouterr().out
    assert "mean of 800 batches" in said and "stateless, 2 labels × 32" in said
    loaded = maya.load(out, "cpu")
    assert isinstance(loaded.model.cfg.encoder, ZipformerConfig)
    assert loaded.model.cfg.encoder.padding == "icefall"
    (hyp,) = loaded.transcribe([torch.randn(16000) * 0.1])
    assert hyp.text == loaded.tokenizer.decode(hyp.tokens) and 0 not in hyp.tokens
