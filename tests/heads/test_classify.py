"""Heads of whole utterances: any encoder, pooling, layers, losses, streams."""

from typing import Any

import pytest
import torch

from maya.data.loading.batch import Batch
from maya.encoders import Encoded, FastConformerConfig, LaCTConfig
from maya.errors import MayaError
from maya.features import FbankConfig, LogMelConfig
from maya.heads import ClassifyConfig, HeadContext, LanguageConfig, LossStep, RegressConfig
from maya.heads.base import TrainingMeans
from maya.heads.classify import balanced_weights, concordance
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from tests import tiny_zipformer

FAST = FastConformerConfig(
    d_model=16, n_layers=2, n_heads=2, subsampling_channels=8, subsampling_factor=4, dropout=0.0,
    dropout_pre_encoder=0.0, dropout_att=0.0,
)  # fmt: skip
ENCODERS: dict[str, tuple[Any, Any]] = {
    "fastconformer": (FAST, LogMelConfig(dither=0.0)),
    "zipformer": (tiny_zipformer.encoder(), FbankConfig()),
    "lact": (
        LaCTConfig(d_model=32, n_layers=2, n_heads=2, ff_dim=32, subsampling_channels=8),
        LogMelConfig(dither=0.0),
    ),
}
CLASSES = ("happy", "sad", "calm")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "perceptron on means": {"pooling": "mean", "hidden": 8},
    "layers": {"layers": "all", "hidden": 8},
    "attentive": {"pooling": "attentive", "attention_dim": 8},
    "context": {"pooling": "attentive", "attention_dim": 8, "global_context": True, "layers": "all"},
}


def model_of(name: str, **heads: Any) -> SpeechModel:
    encoder, features = ENCODERS[name]
    cfg = SpeechModelConfig(features=features, encoder=encoder, heads=heads, vocab_size=5)
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    return build_model(cfg).eval()


def mood(**options: Any) -> ClassifyConfig:
    return ClassifyConfig(label="mood", classes=CLASSES, **options)


def batch_of(seconds: list[float], labels: dict[str, list[str | None]] | None = None) -> Batch:
    lens = torch.tensor([round(16000 * s) for s in seconds])
    audio = 0.1 * torch.randn(len(lens), int(lens.max()))
    audio *= torch.arange(audio.shape[1]) < lens[:, None]
    none = torch.zeros(len(lens), dtype=torch.int64)
    return Batch(
        audio=audio, audio_lens=lens, sample_rate=16000, tokens=torch.zeros(len(lens), 1, dtype=torch.int64),
        token_lens=none, langs=none, ids=[str(i) for i in range(len(lens))], labels=labels or {},
    )  # fmt: skip


def encoded_of(model: SpeechModel, batch: Batch) -> Encoded:
    return model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)


def head_of(dim: int = 4, **options: Any) -> Any:
    return mood(**options).build(HeadContext(dim=dim, labels=3, blank=3, hidden_dims=(dim, dim)))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_row_alone_equals_the_row_in_a_batch(encoder: str, options: str) -> None:
    model = model_of(encoder, mood=mood(**OPTIONS[options]))
    batch = batch_of([1.3, 0.4, 2.0])
    with torch.no_grad():
        together = model.head("mood").outputs(encoded_of(model, batch))  # type: ignore[operator]
        for row, size in enumerate(batch.audio_lens.tolist()):
            alone = model.encode_audio(
                batch.audio[row : row + 1, :size], batch.audio_lens[row : row + 1], hidden=model.hidden
            )
            own = model.head("mood").outputs(alone)  # type: ignore[operator]
            torch.testing.assert_close(own[0], together[row], atol=2e-5, rtol=1e-4)


def test_the_default_is_the_classifier_of_earlier_releases() -> None:
    """Its weights have the same names, and its output the same bits."""
    head = head_of()
    assert list(head.state_dict()) == ["out.weight", "out.bias"]
    lens = torch.tensor([5, 2])
    x = torch.randn(2, 5, 4) * (torch.arange(5) < lens[:, None])[..., None]
    frames = lens.clamp(min=1)[:, None]
    mean = x.sum(1) / frames
    variance = (x.square().sum(1) / frames - mean.square()).clamp(min=0)
    before = head.out(torch.cat([mean, (variance + 1e-5).sqrt()], -1)).log_softmax(-1)
    assert torch.equal(head(Encoded(x, lens)), before)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("frames", [1, 6])
def test_gradients_of_constant_and_shortest_inputs_are_finite(options: str, frames: int) -> None:
    """A standard deviation of zero has no slope, which made training NaN."""
    head = head_of(**OPTIONS[options])
    x = torch.ones(2, frames, 4, requires_grad=True)
    lens = torch.tensor([frames, 0])
    batch = batch_of([0.1, 0.1], {"mood": ["sad", "happy"]})
    hidden = {0: x * 2, 1: x}
    head.losses(Encoded(x, lens, hidden), batch, LossStep())["loss"].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("hidden", [0, 8])
def test_dropout_is_applied_in_training_and_off_in_evaluation(hidden: int) -> None:
    encoded = Encoded(torch.randn(2, 5, 4), torch.tensor([5, 5]))
    for dropout, differs in ((0.5, True), (0.0, False)):
        head = head_of(dropout=dropout, hidden=hidden).train()
        assert torch.equal(head(encoded), head(encoded)) is not differs
        head.eval()
        assert torch.equal(head(encoded), head(encoded))


@pytest.mark.parametrize("options", ["plain", "attentive", "perceptron on means"])
def test_running_sums_of_a_stream_equal_the_whole(options: str) -> None:
    head = head_of(**OPTIONS[options]).eval()
    x = 5 * torch.randn(1, 23, 4)
    whole = head.predict(Encoded(x, torch.tensor([23])))[0]
    stream = head.stream()
    assert stream.prediction() is None
    for a, b in ((0, 1), (1, 1), (1, 9), (9, 23)):
        stream.push(Encoded(x[:, a:b], torch.tensor([b - a])))
    said = stream.prediction()
    assert said is not None and said.label == whole.label
    assert said.probability == pytest.approx(whole.probability, abs=1e-6)


def test_heads_that_cannot_stream_say_why() -> None:
    for options, reason in (("layers", "gives no hidden states"), ("context", "no hidden states")):
        with pytest.raises(MayaError, match=reason):
            head_of(**OPTIONS[options]).stream()
    with pytest.raises(MayaError, match="global_context reads whole utterances"):
        head_of(pooling="attentive", global_context=True).stream()


def test_class_weights_are_counted_in_the_training_data() -> None:
    counts = {"happy": 90, "sad": 9, "calm": 1}
    weights = balanced_weights(counts, CLASSES, "mood")
    torch.testing.assert_close(weights, torch.tensor([100 / 270, 100 / 27, 100 / 3]))
    head = head_of(class_weights="balanced")
    none: Any = None
    head.begin_training(TrainingMeans(texts=none, teacher=none, counts=lambda label: counts))
    plain = head_of()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "class_weights"})
    encoded = Encoded(torch.randn(3, 5, 4), torch.tensor([5, 5, 5]))
    batch = batch_of([0.1] * 3, {"mood": ["calm", "happy", None]})
    weighted, raw = (h.losses(encoded, batch, LossStep())["loss"] for h in (head, plain))
    torch.testing.assert_close(weighted, raw * torch.tensor([100 / 3, 100 / 270, 0.0]))
    with pytest.raises(MayaError, match="no training utterance has mood=calm"):
        balanced_weights(counts | {"calm": 0}, CLASSES, "mood")


def test_balanced_weights_learn_a_rare_class() -> None:
    """One in twenty: without weights the rare class is never said, with them it is."""
    torch.manual_seed(1)
    x = torch.randn(200, 1, 4)
    rare = torch.arange(200) % 20 == 0
    x[rare, :, 0] += 1.0
    encoded = Encoded(x, torch.ones(200, dtype=torch.int64))
    batch = batch_of([0.01] * 200, {"mood": ["sad" if r else "happy" for r in rare.tolist()]})
    recall = {}
    for weights in ("none", "balanced"):
        torch.manual_seed(0)
        cfg = ClassifyConfig(label="mood", classes=("happy", "sad"), class_weights=weights)  # type: ignore[arg-type]
        head = cfg.build(HeadContext(dim=4, labels=3, blank=3))
        if weights == "balanced":
            head.class_weights.copy_(balanced_weights({"happy": 190, "sad": 10}, head.classes, "mood"))
        optimizer = torch.optim.Adam(head.parameters(), 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            head.losses(encoded, batch, LossStep())["loss"].mean().backward()
            optimizer.step()
        said = [p.label for p in head.predict(encoded)]
        recall[weights] = sum(s == "sad" for s, r in zip(said, rare.tolist(), strict=True) if r) / 10
    assert recall["none"] <= 0.2 and recall["balanced"] >= 0.6


def test_focal_loss_follows_its_formula() -> None:
    encoded = Encoded(torch.randn(3, 5, 4), torch.tensor([5, 5, 5]))
    batch = batch_of([0.1] * 3, {"mood": ["calm", "happy", "sad"]})
    head, plain = head_of(focal=2.0), head_of()
    plain.load_state_dict(head.state_dict())
    loss = plain.losses(encoded, batch, LossStep())["loss"]
    torch.testing.assert_close(
        head.losses(encoded, batch, LossStep())["loss"], loss * (1 - (-loss).exp()) ** 2
    )


def test_regression_learns_by_concordance() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(concordance(x, x)) == pytest.approx(1.0)
    assert float(concordance(x, x + 1)) == pytest.approx(2 * 1.25 / (2.5 + 1))
    assert float(concordance(x, -x)) < 0
    head: Any = RegressConfig(label="arousal").build(HeadContext(dim=4, labels=3, blank=3))
    frames = torch.randn(32, 3, 4)
    encoded = Encoded(frames, torch.full((32,), 3))
    values: list[str | None] = [f"{float(v):.3f}" for v in frames.mean(1)[:, 1]]
    batch = batch_of([0.1] * 32, {"arousal": [*values[:-1], None]})
    optimizer = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss = head.losses(encoded, batch, LossStep())["loss"]
        loss.sum().backward()
        optimizer.step()
    assert loss[0] < 0.05 and loss[-1] == 0 and head.numeric
    (said,) = head.predict(Encoded(frames[:1], torch.tensor([3])))
    assert said.probability is None and abs(float(said.label) - float(values[0] or 0)) < 0.3


def test_several_heads_are_a_multi_task_head() -> None:
    """Adding one moves no output of another; each has its own gradients."""
    shared: dict[str, Any] = {"features": LogMelConfig(dither=0.0), "encoder": FAST, "vocab_size": 5}
    first, second = {"mood": mood(hidden=8)}, {"language": LanguageConfig(layers="all")}
    both: Any = first | second
    model = build_model(SpeechModelConfig(heads=both, languages=("a", "b"), **shared)).eval()
    batch = batch_of([0.5, 0.7], {"mood": ["sad", None]})
    losses = model.losses(encoded_of(model, batch), batch)
    assert set(losses.parts) == {"mood", "language"} and losses.parts["mood"][1] == 0
    alone = build_model(SpeechModelConfig(heads=dict(first), **shared)).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if "heads.language" not in k})
    own = alone.losses(encoded_of(alone, batch), batch)
    torch.testing.assert_close(own.parts["mood"], losses.parts["mood"])
