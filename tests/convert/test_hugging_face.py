"""Parakeet folders against transformers' own classes: logits, texts, tokens, and what is refused."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import maya
from maya.convert import import_hugging_face, to_hugging_face
from maya.convert.heads import transducer_head
from maya.convert.hugging_face.names import hugging_face_name, maya_name
from maya.convert.hugging_face.tokens import read_tokenizer_json, tokenizer_json
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.convert import open_checkpoint
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, start_from
from tests.convert.archives import TEXTS, recognizer, tokenizer

LENS = torch.tensor([24000, 17000, 9001])
CLASSES = {"ctc": "AutoModelForCTC", "rnnt": "AutoModelForRNNT", "tdt": "AutoModelForTDT"}


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def audio() -> Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(3, 24000) * (torch.arange(24000) < LENS[:, None])


def made(kind: str, **fields: Any) -> Recognizer:
    torch.manual_seed(0)
    loss = {"transducer": "rnnt"} if kind == "rnnt" else {}
    return recognizer(**{"encoder.subsampling_factor": 8, "features.num_mels": 80, **loss, **fields})


def our_logits(model: Recognizer, kind: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, V) or (B, S, U + 1, V + durations), and the frames (B,)."""
    with torch.no_grad():
        encoded = model.model.encode(audio(), LENS)
        if kind == "ctc":
            layer = model.model.head("ctc").decoder_layers[0]  # type: ignore[union-attr,index]
            return layer(encoded.frames.mT).mT, encoded.lens  # type: ignore[operator]
        head = transducer_head(model.model)
        return head.joint(encoded.frames, head.decoder(tokens)), encoded.lens


def stock_logits(stock: Any, inputs: Any, kind: str, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        if kind == "ctc":
            logits: Tensor = stock(**inputs).logits
            return logits
        blank = torch.full((len(tokens), 1), stock.config.blank_token_id)
        encoded = stock.get_audio_features(**inputs).pooler_output
        predicted = stock.decoder(torch.cat([blank, tokens], 1))
        joint: Tensor = stock.joint(
            encoder_hidden_states=encoded[:, :, None], decoder_hidden_states=predicted[:, None]
        )
        return joint


def assert_equal(model: Recognizer, stock: Any, processor: Any, kind: str) -> None:
    """Logits of a ragged batch, from the audio on."""
    rows = [row[:n].numpy() for row, n in zip(audio(), LENS.tolist(), strict=True)]
    inputs = processor(rows, sampling_rate=16000)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    ours, lens = our_logits(model, kind, tokens)
    others = stock_logits(stock.eval(), inputs, kind, tokens)
    for own, other, frames in zip(ours, others, lens.tolist(), strict=True):
        assert (own[:frames] - other[:frames]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt"])
def test_a_written_folder_gives_our_logits_there_and_back(
    transformers: Any, tmp_path: Path, kind: str
) -> None:
    head: Any = "ctc" if kind == "ctc" else "transducer"
    model = made(kind)
    report = to_hugging_face(model, tmp_path, head=head)
    assert "Parakeet" in report.title
    stock = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert_equal(model, stock, processor, kind)
    again = maya.load(tmp_path, "cpu")
    assert_equal(again, stock, processor, kind)
    assert len(processor.tokenizer) == model.tokenizer.vocab_size + 1
    assert (
        processor.tokenizer.convert_tokens_to_ids(processor.blank_token) == model.model.blank or kind == "ctc"
    )
    ids = processor.tokenizer(TEXTS["en"][0]).input_ids
    assert ids == model.tokenizer.encode(TEXTS["en"][0]) == again.tokenizer.encode(TEXTS["en"][0])


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt"])
def test_a_folder_of_theirs_gives_their_logits(transformers: Any, tmp_path: Path, kind: str) -> None:
    """Random weights, saved in shards, with a blank whose embedding is not zero, beside their tokenizer."""
    torch.manual_seed(0)
    pieces = tokenizer()
    encoder = transformers.ParakeetEncoderConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_kernel_size=5,
        subsampling_conv_channels=8, attention_bias=False, convolution_bias=False, scale_input=False,
    )  # fmt: skip
    size = pieces.vocab_size
    common = {"encoder_config": encoder, "vocab_size": size + 1}
    if kind == "ctc":
        stock = transformers.ParakeetForCTC(transformers.ParakeetCTCConfig(pad_token_id=size, **common))
    else:
        cls = transformers.ParakeetTDTConfig if kind == "tdt" else transformers.ParakeetRNNTConfig
        cfg = cls(decoder_hidden_size=24, num_decoder_layers=1, pad_token_id=2, blank_token_id=size, **common)
        stock = getattr(transformers, "ParakeetForTDT" if kind == "tdt" else "ParakeetForRNNT")(cfg)
        assert stock.decoder.embedding.weight[size].abs().max() > 0
    with torch.no_grad():
        for p in stock.parameters():  # their start is small, so that differences would be too
            p.add_(0.1 * torch.randn_like(p))
    stock.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    content = tokenizer_json(pieces, "<pad>" if kind == "ctc" else "<blank>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    extractor = transformers.ParakeetFeatureExtractor(feature_size=80)
    extractor.save_pretrained(tmp_path)

    def processor(rows: Any, sampling_rate: int) -> Any:
        return extractor(rows, sampling_rate=sampling_rate, return_tensors="pt")

    assert_equal(maya.load(tmp_path, "cpu"), stock, processor, kind)


def test_a_transducer_decodes_as_theirs_does_alone_and_rows_do_not_depend_on_their_batch(
    transformers: Any, tmp_path: Path
) -> None:
    model = made("tdt")
    with torch.no_grad():  # no duration of 0, after which theirs may emit without end
        transducer_head(model.model).joint.output_layer()[3][0] -= 100
    to_hugging_face(model, tmp_path, head="transducer")
    stock = transformers.AutoModelForTDT.from_pretrained(tmp_path).eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    rows = [row[:n].numpy() for row, n in zip(audio(), LENS.tolist(), strict=True)]
    together = model.transcribe(rows, method="transducer")
    for row, text in zip(rows, together, strict=True):
        ids = stock.generate(**processor([row], sampling_rate=16000)).sequences[0].tolist()
        kept = [i for i in ids if i != model.model.blank]
        assert text.text == model.tokenizer.decode(kept)
        assert text.text == model.transcribe([row], method="transducer")[0].text
    assert any(t.text for t in together)
    odd = to_hugging_face(made("tdt", durations=(1, 2, 4)), tmp_path / "odd", head="transducer")
    assert "reads a duration's place as the duration" in odd.text()


@pytest.mark.parametrize(("model_type", "byte_fallback"), [("bpe", False), ("bpe", True), ("unigram", False)])
def test_tokenizer_json_encodes_and_decodes_as_sentencepiece(model_type: Any, byte_fallback: bool) -> None:
    backend = pytest.importorskip("tokenizers", reason="tokenizers is not installed").Tokenizer
    texts = {"en": TEXTS["en"], "hi": TEXTS["hi"]}
    cfg = TokenizerConfig(
        vocab_size=330 if byte_fallback else 60, model_type=model_type, byte_fallback=byte_fallback
    )
    own = Tokenizer.train(texts, cfg)
    content = tokenizer_json(own, "<blank>")
    other, again = backend.from_str(json.dumps(content)), read_tokenizer_json(content, own.vocab_size)
    assert other.get_vocab_size() == own.vocab_size + 1
    assert other.token_to_id("<blank>") == own.vocab_size
    assert again.pieces(range(own.vocab_size)) == own.pieces(range(own.vocab_size))
    for text in ("the quick dog", "नमस्ते दुनिया", "lazy  fox jumps", "over dogs the", "brown\u00e9", " k x"):
        ids = own.encode(text)
        assert other.encode(text, add_special_tokens=False).ids == ids, text
        assert again.encode(text) == ids
        if own.unk_id not in ids:
            assert other.decode(ids) == again.decode(ids) == own.decode(ids)


def test_a_unigram_tokenizer_stays_one_where_their_converter_makes_a_bpe(
    transformers: Any, tmp_path: Path
) -> None:
    own = Tokenizer.train({"en": TEXTS["en"]}, TokenizerConfig(vocab_size=60, model_type="unigram"))
    own.save(tmp_path / "tokenizer.model")
    from transformers.convert_slow_tokenizer import ParakeetConverter

    original = ParakeetConverter(str(tmp_path / "tokenizer.model")).converted()
    words = {w for t in TEXTS["en"] for w in t.split()} | {
        "dogs",
        "foxy",
        "quickly",
        "overs",
        "brownie",
        "jumper",
    }
    texts = sorted(words)
    wrong = [t for t in texts if original.encode(t, add_special_tokens=False).ids != own.encode(t)]
    ours = read_tokenizer_json(tokenizer_json(own, "<pad>"), own.vocab_size)
    assert all(ours.encode(t) == own.encode(t) for t in texts)
    assert wrong, "their converter has become right: say so in docs/models.md"


def test_a_tokenizer_that_they_converted_is_read(transformers: Any, tmp_path: Path) -> None:
    own = tokenizer()
    own.save(tmp_path / "tokenizer.model")
    from transformers.convert_slow_tokenizer import ParakeetConverter

    original = json.loads(ParakeetConverter(str(tmp_path / "tokenizer.model")).converted().to_str())
    read = read_tokenizer_json(original, own.vocab_size)
    for text in ("the quick brown fox", "lazy dog  over", "quickly"):
        assert read.encode(text) == own.encode(text)
        assert read.decode(own.encode(text)) == own.decode(own.encode(text))


def test_names_go_both_ways() -> None:
    for name in made("tdt").model.state_dict():
        if not name.startswith(("preprocessor", "language_embedding")):
            assert maya_name(hugging_face_name(name)) == name


def test_the_command_line_and_the_card_with_the_measured_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", made("tdt")
    (run / "decode" / "test").mkdir(parents=True)
    scores = {"wer": 0.125, "wer_interval": [0.1, 0.15], "cer": 0.05, "cer_interval": [0.04, 0.06]}
    result = {
        "method": "ctc",
        "commit": "0123456789ab",
        "languages": {"en": {"utterances": 7, "hours": 0.5, **scores}},
    }
    (run / "decode" / "test" / "result.json").write_text(json.dumps(result))
    save_checkpoint(run / "best.pt", Checkpoint(
        model_config=model.model.cfg, tokenizer=model.tokenizer, weights=model.model.state_dict(), step=3,
        notes={},
    ))  # fmt: skip
    out = tmp_path / "folder"
    main(["export", "hf", str(run), str(out), "--head", "ctc"])
    card = (out / "README.md").read_text()
    assert "| test | ctc | en | 7 | 0.50 | 12.50 (10.00 to 15.00) | 5.00 (4.00 to 6.00) |" in card
    assert "0123456789" in card
    main(["convert", "hf", str(out), str(tmp_path / "back")])
    weights = load_checkpoint(tmp_path / "back" / "best.pt").weights
    assert torch.equal(
        weights["heads.ctc.decoder_layers.0.weight"],
        model.model.state_dict()["heads.ctc.decoder_layers.0.weight"],
    )
    assert (tmp_path / "back" / "convert.json").exists()
    main(["info", str(out)])
    assert "ctc" in capsys.readouterr().out
    for path in (out, out / "model.safetensors"):  # as train.init_from and finetune --from name them
        assert start_from(made("ctc").model, path, ["encoder", "ctc"], open_checkpoint) > 0


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_hugging_face(made("ctc"), tmp_path / "copy", head="ctc")
    asked: list[Any] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: Any) -> str:
        asked.append((name, revision))
        if name != "we/digits":
            raise OSError("404 Client Error")
        return str(tmp_path / "copy")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert maya.load("hf:we/digits@v2", "cpu").model.cfg.vocab_size == 40
    assert asked == [("we/digits", "v2")]
    with pytest.raises(
        MayaError, match=r"the hub does not give 'we/others' \(404 Client Error\); give a local"
    ):
        maya.load("hf:we/others", "cpu")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MayaError, match=r"names on the hub need pip install 'maya-asr\[hub\]'"):
        maya.load("hf:we/digits", "cpu")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")  # the client of huggingface_hub

    def snapshot_download(name: str, **options: Any) -> str:
        raise httpx.ConnectError("no route to the host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(MayaError, match=r"'we/digits' \(no route to the host\); give a local folder"):
        maya.load("hf:we/digits", "cpu")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"encoder.conv_norm": "layer_norm"}, "layer norm"),
        ({"encoder.att_context_size": ((16, 8),)}, "limited attention"),
        ({"encoder.untie_biases": False}, "share"),
        ({"joint.hidden": 16}, "joint of another width"),
        ({"features.normalize": "none"}, "not normalised"),
    ],
)
def test_a_model_that_a_folder_cannot_hold(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(MayaError, match=rf"Parakeet cannot hold .*{problem}"):
        to_hugging_face(made("tdt", **fields), tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(model_type="bert"), "model of type 'bert'"),
        (lambda c: c.update(pad_token_id=3), "the blank is token 3 of 41"),
        (lambda c: c["encoder_config"].update(hidden_act="gelu"), "encoder_config.hidden_act is 'gelu'"),
        (lambda c: c["encoder_config"].update(convolution_bias=False), "convolution_bias is False"),
        (lambda c: c["encoder_config"].update(num_hidden_layers=3), "lacks tensors"),
        (lambda c: c["encoder_config"].update(hidden_size="wide"), "hidden_size|expects"),
    ],
)
def test_a_changed_config_is_refused(tmp_path: Path, change: Any, problem: str) -> None:
    to_hugging_face(made("ctc"), tmp_path, head="ctc")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(MayaError, match=problem):
        import_hugging_face(tmp_path)


def test_damaged_and_pickled_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="is no folder"):
        import_hugging_face(tmp_path / "none")
    to_hugging_face(made("ctc"), tmp_path, head="ctc")
    for name in ("tokenizer.model", "tokenizer.json"):
        (tmp_path / name).unlink()
    with pytest.raises(MayaError, match="no readable tokenizer.json"):
        import_hugging_face(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MayaError, match="no whole safetensors file"):
        import_hugging_face(tmp_path)
    weights.unlink()
    with pytest.raises(MayaError, match=r"has no model\.safetensors"):
        import_hugging_face(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(MayaError, match=r"pytorch_model\.bin, a pickle"):
        import_hugging_face(tmp_path)


def test_a_language_is_folded_in(transformers: Any, tmp_path: Path) -> None:
    model = made("ctc", language_embedding=True)
    with torch.no_grad():
        model.model.language_embedding.weight.normal_()
    with pytest.raises(MayaError, match="choose --language"):
        to_hugging_face(model, tmp_path, head="ctc")
    to_hugging_face(model, tmp_path, head="ctc", language="hi")
    again = maya.load(tmp_path, "cpu")
    with torch.no_grad():
        ours, lens = model.model.encode(audio(), LENS, torch.tensor([1, 1, 1]))
        others = again.model.encode(audio(), LENS).frames
    for own, other, frames in zip(ours, others, lens.tolist(), strict=True):
        assert (own[:frames] - other[:frames]).abs().max() < 1e-5
