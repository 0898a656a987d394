"""Audio of no samples, one sample or less than a hop works with every encoder, head and front end."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from maya.data.loading.batch import make_batch
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.encoders.lact.config import streaming
from maya.encoders.lact.fast_weights import FastWeightConfig
from maya.features import FbankConfig, LogMelConfig
from maya.heads.transducer import JointConfig, PredictorConfig, StatelessConfig
from maya.models.hybrid import hybrid
from maya.models.speech_model import build_model
from maya.recipes.lact_presets import lact_tiny
from tests import tiny, tiny_zipformer

FAST = FastWeightConfig(fast_heads=2)
CONFORMER = tiny.experiment().model.encoder
LACT = lact_tiny(feat_in=80, d_model=32, ff_dim=32, n_layers=2)
CAUSAL = {"conv_norm": "layer_norm", "conv_context": "causal", "causal_downsampling": True}
ENCODERS: dict[str, Any] = {
    "FastConformer": CONFORMER,
    "FastConformer, checkpointed": replace(CONFORMER, activation_checkpointing=True),
    "FastConformer, streaming": replace(
        CONFORMER, att_context_size=((6, 1),), att_context_style="chunked_limited", **CAUSAL
    ),
    "FastConformer, global tokens": replace(CONFORMER, att_context_size=((8, 8),), global_tokens=1),
    "FastConformer, fast weights": replace(CONFORMER, fast_weights=FAST),
    "Zipformer": tiny_zipformer.encoder(),
    "Zipformer, icefall's padding": tiny_zipformer.encoder(padding="icefall"),
    "Zipformer, causal": tiny_zipformer.encoder(causal=True),
    "Zipformer, fast weights": tiny_zipformer.encoder(fast_weights=FAST),
    "Zipformer at 50 Hz": tiny_zipformer.encoder(output_downsampling=1),
    "LaCT": LACT,
    "LaCT, streaming": streaming(LACT),
}
FEATURES = {
    "logmel": LogMelConfig(),
    "logmel as it is": LogMelConfig(normalize="none"),
    "logmel, legacy": LogMelConfig(legacy=True),
    "fbank": FbankConfig(dither=1e-5),
    "fbank 8 kHz": FbankConfig(sample_rate=8000),
}
SMALL: dict[str, Any] = {"predictor": PredictorConfig(hidden=32), "joint": JointConfig(hidden=32)}
HEADS: dict[str, dict[str, Any]] = {
    "tdt": {"transducer": "tdt", "ctc_weight": 0.3},
    "rnnt": {"transducer": "rnnt", "ctc_weight": 0.0},
    "pruned": {"transducer": "pruned", "predictor": StatelessConfig(hidden=32)},
    "ctc": {"transducer": "none", "ctc_weight": 1.0, "cr_ctc_weight": 0.2},
    "languages": {"transducer": "none", "ctc_weight": 1.0, "language_id_weight": 0.1},
    "attention": {"transducer": "none", "attention_weight": 0.7},
}
BATCHES = ([0], [1], [100], [0, 0], [1600, 0, 1, 100])
PAIRS = [(name, "logmel") for name in ENCODERS] + [
    (name, features)
    for name in ("FastConformer", "Zipformer", "Zipformer, causal", "LaCT")
    for features in FEATURES
    if features != "logmel"
]


def model_of(encoder: str, features: str, **head: Any) -> Recognizer:
    torch.manual_seed(0)
    cfg = hybrid(
        encoder=ENCODERS[encoder], features=FEATURES[features], vocab_size=20, languages=("en", "hi"),
        **(SMALL | (head or HEADS["tdt"])),
    )  # fmt: skip
    numbers: Any = tiny.NumberTokenizer()
    return Recognizer(model=build_model(cfg).eval(), tokenizer=numbers, device=torch.device("cpu"))


def check(recognizer: Recognizer, lens: list[int], language: str) -> None:
    """Run evaluation, recognition and a training step on a batch."""
    model: Any = recognizer.model
    audio = [0.1 * torch.randn(n) for n in lens]
    names = [str(i) for i in range(len(lens))]
    batch = make_batch(
        audio, [[1, 2]] * len(lens), [0] * len(lens), names, sample_rate=recognizer.sample_rate
    )
    model.eval()
    with torch.inference_mode():
        feats, feat_lens = model.features(batch.audio, batch.audio_lens)
        enc, enc_lens = model.encode(batch.audio, batch.audio_lens)
        hyps = recognizer.make_method(recognizer.choose_method()).search(Encoded(enc, enc_lens), None)
        losses = model(batch).total
    assert feats.isfinite().all() and enc.isfinite().all() and not losses.isnan().any()
    for row, samples in enumerate(lens):
        assert samples > 0 or (feat_lens[row] == 0 and enc_lens[row] == 0)
        assert bool((enc[row, enc_lens[row] :] == 0).all())
        assert enc_lens[row] > 0 or hyps[row].tokens == []
        with torch.inference_mode():
            _, alone = model.encode(batch.audio[row : row + 1, :samples], batch.audio_lens[row : row + 1])
        assert alone[0] == enc_lens[row]
    transcribed = recognizer.transcribe(audio, language)
    assert all(hyp.tokens == [] for hyp, samples in zip(transcribed, lens, strict=True) if samples == 0)
    model.train()
    model.begin_step(5, 10.0)
    model.zero_grad()
    losses = model(batch).total
    assert not losses.isnan().any()
    losses.masked_fill(~losses.isfinite(), 0).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("encoder", "features"), PAIRS)
def test_every_encoder_accepts_empty_audio(encoder: str, features: str) -> None:
    recognizer = model_of(encoder, features)
    for lens in BATCHES:
        check(recognizer, lens, "en")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_accepts_no_rows_and_no_features(encoder: str, training: bool) -> None:
    module = ENCODERS[encoder].build().train(training)
    for rows, frames in ((0, 300), (2, 0)):
        x, lens = torch.randn(rows, frames, module.cfg.feat_in), torch.zeros(rows, dtype=torch.int64)
        encoded = module(x, lens)
        assert encoded.frames.shape[0] == rows and encoded.frames.shape[2] == module.cfg.d_model
        assert not encoded.frames.any() and not encoded.lens.any()
        if training:
            encoded.frames.sum().backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_every_head_accepts_zero_frames(head: str) -> None:
    recognizer = model_of("Zipformer", "fbank", **HEADS[head])
    for lens in BATCHES:
        check(recognizer, lens, "auto" if head == "languages" else "en")


@pytest.mark.parametrize("encoder", ["FastConformer, streaming", "Zipformer, causal", "LaCT, streaming"])
@pytest.mark.parametrize("features", ["logmel as it is", "fbank", "fbank 8 kHz"])
def test_streams_accept_empty_audio(encoder: str, features: str) -> None:
    """A stream without audio, or with less than a frame, gives no token. The next utterance is unchanged."""
    stream = model_of(encoder, features).stream("en")
    long = 0.1 * torch.randn(6000)
    stream.accept(long)
    expected = stream.finish().tokens
    for pieces in ([], [0], [1], [0, 30, 0]):
        for samples in pieces:
            stream.accept(0.1 * torch.randn(samples))
        assert stream.finish().tokens == []
    stream.accept(long)
    assert stream.finish().tokens == expected
