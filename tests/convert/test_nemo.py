"""Import and export of NeMo archives: recorded outputs, round trips, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.convert import from_nemo, import_nemo, to_nemo
from maya.convert.nemo.config import choose_front_end
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.features import LogMel, LogMelConfig
from maya.text.aggregate import AggregateTokenizer
from maya.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint, start_from
from maya.train.heads import read_heads
from tests.convert.archives import KINDS, archive, changed, recognizer, tokenizer

PRECISIONS: list[dict[str, Any]] = [
    {"features.legacy": True, "features.num_mels": 128, "encoder.feat_in": 128},
    {"features.sample_rate": 8000, "transducer": "none", "ctc_weight": 1.0},
    {"features.sample_rate": 24000, "features.n_fft": 1024, "encoder.conv_norm": "layer_norm"},
]


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden" / "nemo" / "tdt_ctc_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def imported(shared: Path) -> Recognizer:
    return maya.load(shared / "golden" / "nemo" / "tiny.nemo", "cpu")


def same(a: Recognizer, b: Recognizer) -> None:
    """Two models with identical tensors, configuration and tokenizer."""
    first, second = a.model.state_dict(), b.model.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert a.model.cfg == b.model.cfg
    assert a.tokenizer.model_bytes == b.tokenizer.model_bytes


@torch.inference_mode()
def test_nemo_archive_reproduces_recorded_outputs(golden: dict[str, Any], imported: Recognizer) -> None:
    feats, feat_lens = imported.features(golden["wav"], golden["lens"])
    recorded = golden["feat"].transpose(1, 2)
    assert torch.equal(feat_lens, golden["flen"])
    # Tolerances of tests/features/test_logmel.py, which explains why single cells of a spectrogram differ.
    error = (feats - recorded[:, : feats.shape[1]]).abs()
    assert error.quantile(0.97) <= 1e-5 and error.max() <= 3e-4
    model = imported.model
    enc, enc_lens = model.encoder(recorded, golden["flen"])
    assert torch.equal(enc_lens, golden["elen"])
    for row, size in enumerate(enc_lens.tolist()):
        expected = golden["enc"].transpose(1, 2)[row, :size]
        torch.testing.assert_close(enc[row, :size], expected, rtol=0, atol=2e-5)
        log_probs = model.heads["ctc"](enc[row : row + 1, :size])
        torch.testing.assert_close(log_probs[0], golden["ctc"][row, :size], rtol=0, atol=2e-5)
    hyps = greedy(model, model.encode_audio(golden["wav"], golden["lens"]), "transducer")
    assert [(h.tokens, h.frames) for h in hyps] == [(list(t), list(f)) for t, f in golden["greedy"]]


def test_nemo_archive_round_trip(shared: Path, imported: Recognizer, tmp_path: Path) -> None:
    report = to_nemo(imported, tmp_path / "again.nemo")
    same(imported, from_nemo(tmp_path / "again.nemo"))
    assert "71,199" in report.text()  # parameters of the recorded model
    to_nemo(imported, tmp_path / "twice.nemo")
    assert (tmp_path / "again.nemo").read_bytes() == (tmp_path / "twice.nemo").read_bytes()


@pytest.mark.parametrize("fields", KINDS, ids=lambda f: " ".join(f) or "default")
def test_round_trip_of_every_kind(fields: dict[str, Any], tmp_path: Path) -> None:
    model = recognizer(**fields)
    to_nemo(model, tmp_path / "a.nemo")
    again = from_nemo(tmp_path / "a.nemo")
    # Settings that NeMo's yaml does not hold, because they do not change the network.
    ours, loaded = model.model.cfg, again.model.cfg
    for name in ("noise", "languages", "language_dropout"):
        setattr(loaded, name, getattr(ours, name))
    loaded.encoder.masked_norm = ours.encoder.masked_norm
    if "transducer" in ours.heads:
        names = (
            "loss_eps",
            *(() if ours.heads["transducer"].loss == "tdt" else ("durations", "sigma", "omega")),
        )
        for name in names:
            setattr(loaded.heads["transducer"], name, getattr(ours.heads["transducer"], name))
    same(model, again)


def test_a_gzipped_archive_is_read(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.nemo")
    same(from_nemo(source), from_nemo(changed(source, tmp_path / "z.nemo", mode="w:gz")))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("fields", [{}, *PRECISIONS], ids=lambda f: " ".join(f) or "default")
def test_archives_of_any_precision(fields: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    """All tensors are rounded, the window and filter bank too; the model differs only by rounding."""
    source = archive(tmp_path / "a.nemo", **fields)
    rounded = changed(source, tmp_path / "h.nemo", weights=lambda w: {
        k: v.to(dtype) if v.is_floating_point() else v for k, v in w.items()})  # fmt: skip
    made = import_nemo(rounded)
    plain = import_nemo(source).checkpoint.weights
    eps = torch.finfo(dtype).eps
    for name, tensor in made.checkpoint.weights.items():
        assert tensor.dtype in (torch.float32, torch.int64)
        if name.startswith("preprocessor"):
            assert torch.equal(tensor, plain[name]), "features are computed with exact filters"
        torch.testing.assert_close(tensor, plain[name], rtol=eps, atol=1e-7)
    assert str(dtype) in made.report.text()
    audio = torch.randn(9000, generator=torch.Generator().manual_seed(0)) * 0.1
    lens = torch.tensor([9000])
    model, halved = from_nemo(source), from_nemo(rounded)
    feats, halved_feats = (m.features(audio[None], lens)[0] for m in (model, halved))
    assert torch.equal(feats, halved_feats)
    enc, halved_enc = (m.encode(audio[None], lens)[0] for m in (model, halved))
    torch.testing.assert_close(enc, halved_enc, rtol=40 * eps, atol=40 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_refuses_filters_of_another_front_end(dtype: torch.dtype, tmp_path: Path) -> None:
    other = LogMel(LogMelConfig(sample_rate=8000)).fb
    source = archive(tmp_path / "a.nemo")
    filters = {"preprocessor.featurizer.fb": other.to(dtype)}
    with pytest.raises(MayaError, match="fb is not the one that the yaml's preprocessor section describes"):
        from_nemo(changed(source, tmp_path / "o.nemo", weights=lambda w: w | filters))


def test_refuses_weights_that_overflowed(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.nemo")
    name = "encoder.layers.0.conv.batch_norm.running_var"

    def overflow(weights: dict[str, Any]) -> dict[str, Any]:
        return weights | {name: (weights[name] * 1e6).half()}

    with pytest.raises(MayaError, match=f"{name} holds values that are not finite numbers"):
        from_nemo(changed(source, tmp_path / "o.nemo", weights=overflow))


def test_ignores_metrics_and_position_tables(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.nemo")

    def extra(state: dict[str, Any]) -> None:
        state["encoder.pos_enc.pe"] = torch.zeros(1, 9, 32)
        state["wer.scores"] = torch.zeros(())
        del state["preprocessor.featurizer.fb"], state["preprocessor.featurizer.window"]

    same(from_nemo(source), from_nemo(changed(source, tmp_path / "b.nemo", weights=extra)))


def test_aggregate_tokenizer_round_trip(tmp_path: Path) -> None:
    both = AggregateTokenizer({"en": tokenizer("en"), "hi": tokenizer("hi", 30)})
    model = recognizer(both)
    to_nemo(model, tmp_path / "a.nemo")
    made = import_nemo(tmp_path / "a.nemo").checkpoint
    assert made.tokenizer.model_bytes == both.model_bytes
    assert made.model_config.languages == ("en", "hi")
    save_checkpoint(tmp_path / "best.pt", made)
    assert isinstance(load_checkpoint(tmp_path / "best.pt").tokenizer, AggregateTokenizer)


def test_export_for_one_language_equals_the_model(tmp_path: Path) -> None:
    model = recognizer(language_embedding=True, languages=("en", "hi"))
    audio, lens = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 12000])
    for language, index in (("hi", 1), ("unknown", -1)):
        to_nemo(model, tmp_path / "a.nemo", language=language)
        enc, enc_lens = model.encode(audio, lens, torch.full((2,), index))
        fixed, _ = from_nemo(tmp_path / "a.nemo").encode(audio, lens)
        for row, size in enumerate(enc_lens.tolist()):
            torch.testing.assert_close(fixed[row, :size], enc[row, :size], rtol=0, atol=1e-6)
    with pytest.raises(MayaError, match="choose --language from en, hi, unknown"):
        to_nemo(model, tmp_path / "a.nemo")


def test_encoder_can_be_imported_alone(tmp_path: Path) -> None:
    source, pieces = archive(tmp_path / "a.nemo"), tokenizer("hi", 30)
    whole = from_nemo(source).model.state_dict()
    made = import_nemo(source, encoder_only=True, tokenizer=pieces)
    assert made.report.new == ("transducer", "ctc") and read_heads(made.checkpoint).trained == ()
    assert "new: transducer, ctc" in made.report.text()
    assert (
        made.checkpoint.model_config.vocab_size == pieces.vocab_size == made.checkpoint.tokenizer.vocab_size
    )
    save_checkpoint(tmp_path / "best.pt", made.checkpoint)
    fresh = recognizer(pieces).model
    taken = start_from(fresh, tmp_path / "best.pt", ["encoder"])
    encoder = {k: v for k, v in whole.items() if k.startswith("encoder.")}
    assert taken == sum(v.numel() for v in encoder.values())
    assert all(torch.equal(fresh.state_dict()[k], v) for k, v in encoder.items())
    joint = "heads.transducer.joint.enc.weight"
    assert not torch.equal(made.checkpoint.weights[joint], whole[joint])
    with pytest.raises(MayaError, match="--encoder-only"):
        import_nemo(source, tokenizer=pieces)


@pytest.mark.parametrize(
    ("version", "choice", "legacy", "reason"),
    [
        ("1.23.0", "auto", True, "before 2.5"),
        ("2.4.1rc0", "auto", True, "before 2.5"),
        ("2.5.0", "auto", False, "saved by NeMo 2.5.0"),
        ("", "auto", False, "names no NeMo version"),
        ("1.23.0", "since-2.5", False, "--front-end since-2.5 was given"),
        ("3.0.0", "before-2.5", True, "--front-end before-2.5 was given"),
    ],
)
def test_the_front_end_follows_the_version_or_the_option(
    version: str, choice: Any, legacy: bool, reason: str
) -> None:
    is_legacy, explanation = choose_front_end(version, choice)
    assert is_legacy == legacy and reason in explanation


def test_warns_of_another_tokenizer(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.nemo")
    assert "pieces of the tokenizer" not in import_nemo(source).report.text()

    def swap(config: dict[str, Any]) -> None:
        pieces = config["joint"]["vocabulary"]
        pieces[5], pieces[6] = pieces[6], pieces[5]

    made = import_nemo(changed(source, tmp_path / "b.nemo", config=swap))
    assert "2 of 40 pieces of the tokenizer" in made.report.text()
