"""Adaptation at test time: what each method changes, and that nothing of it stays after a reset."""

import pytest
import torch
from torch import Tensor

from maya.decode.adapt import (
    AdaptConfig,
    CarriedConfig,
    DSUTAConfig,
    EBATSConfig,
    PseudoLabelsConfig,
    SourceStatistics,
    SUTAConfig,
    measure_source,
)
from maya.decode.adapt.cma import SearchState, draw, updated
from maya.decode.adapt.objectives import class_confusion, entropies, speech_entropy
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import CTCConfig
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes import presets
from maya.recipes.lact_presets import lact_tiny
from tests import tiny

ENCODERS = ("fastconformer", "zipformer", "lact")
METHODS: dict[str, AdaptConfig] = {
    "suta": SUTAConfig(steps=2, lr=1e-2),
    "dsuta": DSUTAConfig(steps=1, lr=1e-2, buffer=2, domain=4),
    "ebats": EBATSConfig(population=4, generations=2, sigma=0.5),
    "pseudo_labels": PseudoLabelsConfig(steps=2, lr=1e-2),
}


def _config(encoder: str) -> SpeechModelConfig:
    cfg = tiny.experiment().model
    if encoder == "zipformer":
        cfg = presets.zipformer_low_resource()
        cfg.language_embedding, cfg.heads["ctc"] = True, CTCConfig()
    elif encoder == "lact":
        cfg.encoder = lact_tiny(n_layers=2, feat_in=80)
    return with_vocabulary(cfg, 20, ("en", "hi"))


@pytest.fixture(scope="module", params=ENCODERS)
def model(request: pytest.FixtureRequest) -> SpeechModel:
    torch.manual_seed(1)
    return build_model(_config(request.param)).eval()


def _audio(rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 16000, generator=generator) * 0.1, torch.tensor(
        [16000, 12000, 16000, 9000][:rows]
    )


def _source(model: SpeechModel) -> SourceStatistics:
    return measure_source(model, "ctc", [(row, 0) for row in _audio(3, seed=5)[0]])


def _state(model: SpeechModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _assert_same(model: SpeechModel, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("continual", [False, True])
def test_closed_adapter_leaves_every_bit(model: SpeechModel, method: str, continual: bool) -> None:
    cfg, before = METHODS[method], _state(model)
    cfg = type(cfg)(
        **{f: getattr(cfg, f) for f in cfg.__dataclass_fields__ if f != "continual"}, continual=continual
    )
    audio, lens = _audio()
    plain = model.encode_audio(audio[:1], lens[:1]).frames
    with cfg.build(model, "ctc", _source(model)) as adapter:
        with torch.inference_mode():  # as the recognizer does
            encoded = adapter.encode(audio, lens, torch.tensor([0, 1]))
        assert encoded.frames.shape[0] == 2 and not encoded.frames.requires_grad
        assert not encoded.frames[1, int(encoded.lens[1]) :].any()
        if method == "ebats":  # of a model without training, no prompt may be the best
            with adapter.prompted(torch.ones(1, len(adapter.state.mean))):
                changed = adapter.run(*model.features(audio[:1], lens[:1]))
            assert not torch.equal(changed.frames, plain)
        else:
            assert not torch.equal(encoded.frames[:1], plain)
        first = adapter.encode(audio[:1], lens[:1], torch.tensor([0]))
        if not continual and method != "dsuta":
            assert torch.equal(first.frames, encoded.frames[:1])  # nothing of the second utterance stayed
    _assert_same(model, before)
    assert torch.equal(model.encode_audio(audio[:1], lens[:1]).frames, plain)


def test_suta_lowers_its_loss(model: SpeechModel) -> None:
    utterance = (*model.features(*_audio(1)), torch.tensor([0]))
    with METHODS["suta"].build(model, "ctc", None) as adapter:
        before = adapter.loss(utterance).item()
        adapter.learn([utterance], 4)
        assert adapter.loss(utterance).item() < before


def test_ebats_finds_a_prompt_that_undoes_a_shift(model: SpeechModel) -> None:
    """The statistics are those of frames with a constant vector added: the search finds some of it."""
    audio, lens = _audio(1)
    source, langs = _source(model), torch.tensor([0])
    with EBATSConfig(population=16, sigma=0.3).build(model, "ctc", source) as adapter, torch.no_grad():
        feats, state = model.features(audio, lens), adapter.state
        shift = torch.randn(1, len(state.mean), generator=torch.Generator().manual_seed(3))
        with adapter.prompted(shift):
            adapter.source = _source(model)
        before = adapter.losses(0 * shift, *feats, langs).item()
        for _ in range(8):
            candidates = draw(state, 16, adapter.generator)
            losses = adapter.losses(candidates, *feats, langs)
            state = updated(state, candidates, losses)
    assert losses.min().item() < before


def test_population_is_a_batch_of_lone_candidates(model: SpeechModel) -> None:
    audio, lens = _audio(1)
    with METHODS["ebats"].build(model, "ctc", _source(model)) as adapter, torch.no_grad():
        feats, langs = model.features(audio, lens), torch.tensor([1])
        prompts = draw(adapter.state, 3, adapter.generator)
        together = adapter.losses(prompts, *feats, langs)
        alone = torch.cat([adapter.losses(own[None], *feats, langs) for own in prompts])
    assert torch.allclose(together, alone, rtol=1e-3)


def test_carried_state_is_that_of_the_encoder() -> None:
    model = build_model(_config("lact")).eval()
    for layer in model.encoder.layers:
        torch.nn.init.normal_(layer.mixer.fast.gate.weight)  # open the gates, which training does
    audio, lens = _audio()
    with torch.no_grad():
        feats = [model.features(row[None, :n], n[None]) for row, n in zip(audio, lens, strict=True)]
        _, state = model.encoder.adapt(*feats[0])
        expected, _ = model.encoder.adapt(*feats[1], state)
    with CarriedConfig().build(model, "ctc", None) as adapter:
        encoded = adapter.encode(audio, lens)
        size = int(encoded.lens[1])
        assert torch.allclose(encoded.frames[1, :size], expected.frames[0, :size], atol=1e-6)
        adapter.reset()
        anew = adapter.encode(audio[1:], lens[1:])
    assert not torch.allclose(anew.frames, expected.frames, atol=1e-4)


def test_dsuta_resets_when_the_speech_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(_config("fastconformer")).eval()
    cfg = DSUTAConfig(steps=0, buffer=2, domain=4, patience=2)
    with cfg.build(model, "ctc", None) as adapter:
        changes = iter([0.0, 0.1] + [0.0] * 2 + [5.0] * 4)
        monkeypatch.setattr(adapter, "_change", lambda utterance: next(changes))
        audio, lens = _audio(1)
        resets = []
        for _ in range(10):
            adapter.encode(audio, lens)
            resets.append(adapter.resets)
    assert resets == [0] * 9 + [1]


def test_objectives() -> None:
    logits = torch.tensor([[[8.0, 0.0, 0.0], [0.0, 0.0, 8.0], [0.0, 0.0, 0.0]]])
    assert entropies(logits, 1.0)[0, 2].item() == pytest.approx(torch.tensor(3.0).log().item())
    both = entropies(logits, 2.0)[0]
    assert speech_entropy(logits, 2, 2.0)[0].item() == pytest.approx((both[0] + both[2]).item() / 2)
    assert speech_entropy(logits[:, 1:2], 2, 2.0).isnan().all()  # only blank
    sure = torch.eye(3)[None] * 50
    assert class_confusion(sure, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert class_confusion(torch.zeros(1, 4, 3), 1.0).item() == pytest.approx(2 / 3)
    assert class_confusion(sure[:, :1] * 10, 1.0).isfinite().all()  # labels without mass


def test_cma_finds_the_minimum_of_a_quadratic() -> None:
    generator, state = torch.Generator().manual_seed(0), SearchState.start(10, 0.3)
    goal, scale = torch.linspace(-1, 1, 10), torch.logspace(0, 2, 10)
    for _ in range(150):
        candidates = draw(state, 12, generator)
        state = updated(state, candidates, ((candidates - goal).square() * scale).sum(1))
    assert (state.mean - goal).abs().max() < 1e-3 and state.sigma < 1e-2


def test_refusals() -> None:
    model = build_model(_config("fastconformer")).eval()
    with pytest.raises(MayaError, match="carries no state"):
        CarriedConfig().build(model, "ctc", None)
    with pytest.raises(MayaError, match="learns from a trained CTC head"):
        SUTAConfig().build(model, "transducer", None)
    with pytest.raises(MayaError, match="give it a SourceStatistics"):
        EBATSConfig().build(model, "ctc", None)
    with pytest.raises(MayaError, match="no speech to measure"):
        measure_source(model, "ctc", [])


@pytest.mark.parametrize("method", ["transducer", "ctc"])
def test_recognizer_decodes_adapted_frames_by_any_head(method: str) -> None:
    torch.manual_seed(1)
    model = build_model(_config("fastconformer")).eval()
    tokenizer = tiny.NumberTokenizer()
    recognizer = Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))  # type: ignore[arg-type]
    before = _state(model)
    audio = [row.numpy() for row in _audio()[0]]
    adapted = recognizer.adapted(SUTAConfig(steps=3, lr=3e-2))
    hyps = [h.tokens for h in adapted.transcribe(audio, "en", method=method)]
    single = [adapted.transcribe(own, "en", method=method)[0].tokens for own in audio]
    assert hyps == single != [h.tokens for h in recognizer.transcribe(audio, "en", method=method)]
    assert adapted.adapter is not None
    adapted.adapter.close()
    _assert_same(model, before)
