"""The model as a whole: NeMo's weights give NeMo's numbers, and a batch gives what single utterances give."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from maya.config import from_dict, to_dict
from maya.data.loading.batch import Batch
from maya.decode.methods import greedy
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import LanguageConfig, TransducerHead
from maya.losses import rnnt_loss, tdt_loss
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import HybridOptions
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.recipes import presets
from maya.train.checkpoints.older import renamed
from tests import tiny


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden" / "nemo" / "tdt_ctc_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def nemo_model(golden: dict[str, Any]) -> SpeechModel:
    """Our model with the recorded weights, every one of them and no other."""
    cfg = presets.fastconformer_tdt_ctc(
        d_model=32, n_layers=2, n_heads=4, subsampling_channels=8, hidden=24, predictor_layers=2
    )
    cfg.vocab_size = golden["V"]
    model = build_model(cfg).eval()
    prefixes = {
        "decoder": "heads.transducer.decoder",
        "joint": "heads.transducer.joint",
        "ctc_decoder": "heads.ctc",
    }
    model.load_state_dict(renamed(golden["state_dict"], prefixes), strict=True)
    return model


def _batch(golden: dict[str, Any]) -> Batch:
    return Batch(sample_rate=16000, 
        audio=golden["wav"], audio_lens=golden["lens"], tokens=golden["labels"], token_lens=golden["ulen"],
        langs=torch.full((3,), -1), ids=["a", "b", "c"],
    )  # fmt: skip


@torch.inference_mode()
def test_greedy_tokens_equal_nemo(golden: dict[str, Any], nemo_model: SpeechModel) -> None:
    enc, enc_lens = nemo_model.encode(golden["wav"], golden["lens"])
    assert torch.equal(enc_lens, golden["elen"])
    expected = golden["enc"].transpose(1, 2)
    for row, size in enumerate(enc_lens.tolist()):
        torch.testing.assert_close(enc[row, :size], expected[row, :size], rtol=0, atol=2e-5)
        log_probs = nemo_model.head("ctc")(enc[row : row + 1, :size])
        torch.testing.assert_close(log_probs[0], golden["ctc"][row, :size], rtol=0, atol=2e-5)
    hyps = greedy(nemo_model, nemo_model.encode_audio(golden["wav"], golden["lens"]), "transducer")
    assert [(h.tokens, h.frames) for h in hyps] == [(list(t), list(f)) for t, f in golden["greedy"]]


def test_losses_equal_nemo(golden: dict[str, Any], nemo_model: SpeechModel) -> None:
    losses = nemo_model(_batch(golden))
    parts = losses.parts
    torch.testing.assert_close(parts["transducer"], golden["tdt_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.total, 0.7 * parts["transducer"] + 0.3 * parts["ctc"])


def _tiny(**options: Any) -> SpeechModel:
    return build_model(tiny.hybrid(**options))


def _random_batch() -> Batch:
    lens, token_lens = torch.tensor([16000, 5000, 11111]), torch.tensor([6, 0, 3])
    audio = torch.randn(3, 16000) * 0.1 * (torch.arange(16000) < lens[:, None])
    tokens = torch.randint(0, 12, (3, 6)) * (torch.arange(6) < token_lens[:, None])
    return Batch(sample_rate=16000, audio=audio, audio_lens=lens, tokens=tokens, token_lens=token_lens,
                 langs=torch.tensor([0, -1, 1]), ids=["a", "b", "c"])  # fmt: skip


def _row(batch: Batch, i: int) -> Batch:
    n, u = int(batch.audio_lens[i]), int(batch.token_lens[i])
    return Batch(sample_rate=16000, audio=batch.audio[i : i + 1, :n], audio_lens=batch.audio_lens[i : i + 1],
                 tokens=batch.tokens[i : i + 1, :u], token_lens=batch.token_lens[i : i + 1],
                 langs=batch.langs[i : i + 1], ids=[batch.ids[i]])  # fmt: skip


@pytest.mark.parametrize("transducer", ["tdt", "rnnt", "none"])
def test_a_batch_equals_its_single_utterances(transducer: str) -> None:
    """Losses and hypotheses do not depend on what an utterance is padded with or to."""
    model = _tiny(transducer=transducer).eval()
    batch = _random_batch()
    batch.audio[1, 5000:] = 7.0  # what lies beyond an utterance's end is not heard
    with torch.inference_mode():
        together = model(batch)
        head = next(iter(model.heads))
        encoded = model.encode_audio(batch.audio, batch.audio_lens)
        hyps = greedy(model, encoded, head, batch.langs)
        for i in range(3):
            single = _row(batch, i)
            alone = model(single)
            torch.testing.assert_close(together.total[i], alone.total[0], rtol=1e-5, atol=1e-5)
            encoded = model.encode_audio(single.audio, single.audio_lens)
            hyp = greedy(model, encoded, head, single.langs)[0]
            assert (hyp.tokens, hyp.frames) == (hyps[i].tokens, hyps[i].frames)


@pytest.mark.parametrize("transducer", ["tdt", "rnnt"])
def test_fused_loss_equals_the_loss_of_the_joint_logits(transducer: str) -> None:
    torch.manual_seed(0)
    model = _tiny(transducer=transducer, loss_eps=0.0, ctc_weight=0.0).double().eval()
    batch, enc_lens = _random_batch(), torch.tensor([12, 4, 9])
    enc = torch.randn(3, 12, model.cfg.encoder.d_model, dtype=torch.float64, requires_grad=True)
    fused = model.losses(Encoded(enc, enc_lens), batch).total
    head = model.head("transducer")
    assert isinstance(head, TransducerHead)
    conditioned = model.with_language(Encoded(enc, enc_lens), batch.langs).frames
    logits = head.joint(conditioned, head.decoder(batch.tokens))
    targets = (batch.tokens, enc_lens, batch.token_lens)
    if transducer == "tdt":
        settings = {"durations": head.cfg.durations, "blank": model.blank, "sigma": head.cfg.sigma}
        dense = tdt_loss(*head.joint.split(logits), *targets, **settings)
    else:
        dense = rnnt_loss(logits, *targets, blank=model.blank)
    torch.testing.assert_close(fused, dense)
    leaves = [enc, *head.parameters()]
    gradients, expected = (torch.autograd.grad(x.sum(), leaves, retain_graph=True) for x in (fused, dense))
    torch.testing.assert_close(gradients, expected)


def test_dropout_of_the_joint_follows_the_random_state() -> None:
    model, batch = _tiny(ctc_weight=0.0).train(), _random_batch()
    head = model.head("transducer")
    for module in (model.encoder, head.decoder, model.specaugment):  # so that the joint alone draws
        module.eval()  # type: ignore[operator]
    head.cfg.joint.dropout = 0.5
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(batch).total)
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_every_parameter_has_a_gradient() -> None:
    model = _tiny(language_id_weight=0.5).train()
    model(_random_batch()).total.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, f"{name} has no gradient"


def test_language_changes_the_output_only_if_it_is_given() -> None:
    model = _tiny().eval()
    batch = _random_batch()
    with torch.inference_mode():
        unknown, _ = model.encode(batch.audio, batch.audio_lens, None)
        hidden, _ = model.encode(batch.audio, batch.audio_lens, torch.full((3,), -1))
        hindi, _ = model.encode(batch.audio, batch.audio_lens, torch.ones(3, dtype=torch.long))
    assert torch.equal(unknown, hidden)
    torch.testing.assert_close(
        hindi - unknown, model.language_embedding.weight[1].expand_as(hindi).clone(), atol=1e-5, rtol=0
    )


def test_language_dropout_in_training() -> None:
    model, batch = _tiny(language_dropout=0.5), _random_batch()
    biases: list[list[bool]] = []  # of each pass, whether each row had one
    whole = model.with_language

    def watched(encoded: Encoded, langs: torch.Tensor) -> Encoded:
        biases.append((langs >= 0).tolist())
        return whole(encoded, langs)

    with mock.patch.object(model, "with_language", watched):
        model.train()
        for _ in range(40):
            model(batch)
        given = [row[0] for row in biases]
        assert 8 < sum(given) < 32 and not any(row[1] for row in biases)  # the second row's is unknown
        model.eval()
        model(batch)
        assert biases[-1] == (batch.langs >= 0).tolist()


def test_two_views_of_an_utterance_have_the_same_language() -> None:
    model, batch = _tiny(language_dropout=0.5, cr_ctc_weight=0.2), _random_batch()
    calls = []
    with mock.patch.object(model, "with_language", lambda encoded, langs: calls.append(langs) or encoded):
        for _ in range(8):
            model(batch)
    assert all(torch.equal(*langs.chunk(2)) for langs in calls)


def test_the_language_is_identified_from_the_frames() -> None:
    model, batch = _tiny(language_id_weight=0.5), _random_batch()  # languages 0, unknown, 1
    model.eval()
    head = model.head("language")
    encoded = model.encode_audio(batch.audio, batch.audio_lens)
    log_probs = head(encoded)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))
    for i in range(3):  # padding has no part in it
        alone = head(Encoded(encoded.frames[i : i + 1, : encoded.lens[i]], encoded.lens[i : i + 1]))
        torch.testing.assert_close(alone[0], log_probs[i], rtol=1e-4, atol=1e-5)
    predictions = head.predict(encoded)
    assert [p.label for p in predictions] == [model.cfg.languages[i] for i in log_probs.argmax(-1).tolist()]
    losses = model(batch)
    torch.testing.assert_close(
        losses.parts["language"], torch.stack([-log_probs[0, 0], log_probs.new_zeros(()), -log_probs[2, 1]])
    )
    plain = _tiny()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(losses.total, plain.eval()(batch).total + 0.5 * losses.parts["language"])
    with pytest.raises(MayaError, match="no head 'language'; its heads are transducer, ctc"):
        plain.head("language")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_languages_are_identified_in_other_precisions(dtype: torch.dtype) -> None:
    """The statistics are of fp32 at least; the weights are what the model is in."""
    head = _tiny(language_id_weight=0.5).eval().to(dtype).head("language")
    frames, lens = torch.randn(2, 7, 32).to(dtype), torch.tensor([7, 7])
    log_probs = head(Encoded(frames, lens))
    assert log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = head.float()(Encoded(frames.float(), lens))
    torch.testing.assert_close(log_probs.float(), wide, atol=0.05, rtol=0)


def test_a_batch_without_known_languages_still_has_all_gradients() -> None:
    model, batch = _tiny(language_id_weight=0.5).train(), _random_batch()
    batch.langs[:] = -1
    model(batch).total.sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # DDP waits for them
    assert all(float(p.grad.abs().sum()) == 0 for p in model.head("language").parameters())


def test_omega_takes_the_plain_transducer_loss_in_training_only() -> None:
    batch, model = _random_batch(), _tiny(omega=1.0)
    model.train()
    losses = model(batch, torch.Generator().manual_seed(0))
    assert losses.objective == "rnnt"
    losses.parts["transducer"].sum().backward()
    durations = model.get_parameter("heads.transducer.joint.joint_net.2.weight").grad[-5:]  # type: ignore[index]
    assert durations.abs().sum() == 0  # the RNN-T loss knows no durations
    model.eval()
    with torch.inference_mode():
        plain = _tiny(omega=0.0)
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(batch).total, plain.eval()(batch).total)
        assert model(batch).objective == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": 0}, "no vocabulary"),
        ({"ctc_weight": 1.5}, "ctc_weight must be from 0 to 1, not 1.5"),
        ({"languages": ()}, "needs model.languages"),
        (
            {"languages": (), "language_embedding": False, "language_id_weight": 0.1},
            "a language head needs model.languages",
        ),
        ({"durations": (2, 1)}, "ascend"),
        ({"durations": (0,)}, "ascend"),
    ],
)
def test_invalid_configurations_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MayaError, match=sentence):
        _tiny(**change)


def test_configuration_round_trips_through_json() -> None:
    cfg = presets.xxlarge()
    assert from_dict(SpeechModelConfig, to_dict(cfg)) == cfg


@pytest.mark.parametrize(
    ("preset", "vocab_size", "low", "high"),
    [
        (presets.tiny, 872, 3e6, 5e6),
        (presets.small, 1024, 12e6, 16e6),
        (presets.large, 1024, 110e6, 120e6),
        (presets.xlarge, 1024, 615e6, 621e6),
        (presets.xxlarge, 32768, 1.08e9, 1.15e9),
    ],
)
def test_parameter_counts(preset: Any, vocab_size: int, low: float, high: float) -> None:
    cfg = preset()
    cfg.vocab_size = vocab_size
    with torch.device("meta"):
        model = build_model(cfg)
    assert low < count_parameters(model) < high
    if preset is presets.xxlarge:
        assert count_parameters(model.encoder) == pytest.approx(1.0615e9, rel=1e-3)


def test_a_model_without_heads_encodes_and_one_without_a_text_head_needs_no_vocabulary() -> None:
    bare = tiny.hybrid()
    bare.heads, bare.vocab_size, bare.language_embedding = {}, 0, False
    batch = _random_batch()
    frames, lens = build_model(bare).eval().encode(batch.audio, batch.audio_lens)
    assert frames.shape[:2] == (3, int(lens.max()))
    bare.heads = {"language": LanguageConfig()}
    losses = build_model(bare)(batch)
    assert losses.parts.keys() == {"language"} and torch.equal(losses.total, losses.parts["language"])


def test_options_are_not_changed_by_the_heads_made_of_them() -> None:
    options = HybridOptions(transducer="pruned", attention_weight=0.3, loss_warmup=7, vocab_size=11)
    before = to_dict(options)
    heads = options.heads()
    assert to_dict(options) == before
    assert heads["transducer"].pruned.warmup_steps == 7 and heads["attention"].weight == 0.3
