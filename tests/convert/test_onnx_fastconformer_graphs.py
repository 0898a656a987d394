"""The traceable modules equal the model before they are exported to ONNX."""

from typing import Any

import pytest
import torch

from maya.convert.heads import transducer_head
from maya.convert.onnx.fastconformer_graphs import EncoderGraph, FeatureGraph, JoinerGraph, PredictorGraph
from maya.features.logmel import LogMel, LogMelConfig
from tests.convert.archives import recognizer


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("normalize", ["per_feature", "none"])
def test_features(legacy: bool, normalize: Any) -> None:
    front = LogMel(LogMelConfig(legacy=legacy, normalize=normalize)).eval()
    audio, lens = torch.randn(3, 16123) * 0.1, torch.tensor([16123, 9000, 300])
    expected, feat_lens = front(audio, lens)
    feats, graph_lens = FeatureGraph(front)(audio, lens)
    assert torch.equal(graph_lens, feat_lens)
    torch.testing.assert_close(feats.transpose(1, 2), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"encoder.att_context_size": ((3, 1),), "encoder.subsampling_factor": 8},
        {"encoder.att_context_size": ((-1, 2),), "encoder.use_bias": False, "encoder.untie_biases": False},
        {"encoder.att_context_size": ((4, 1),), "encoder.att_context_style": "chunked_limited",
         "encoder.causal_downsampling": True, "encoder.conv_context": "causal"},
    ],
)  # fmt: skip
@torch.inference_mode()
def test_encoder(fields: dict[str, Any]) -> None:
    model = recognizer(**fields).model
    x, lens = torch.randn(3, 201, 80), torch.tensor([201, 120, 1])
    expected, enc_lens = model.encoder(x, lens)
    enc, graph_lens = EncoderGraph(model)(x.transpose(1, 2), lens)
    assert torch.equal(graph_lens, enc_lens)
    torch.testing.assert_close(enc.transpose(1, 2), expected, rtol=0, atol=2e-5)


@torch.inference_mode()
def test_predictor_and_joint() -> None:
    model = recognizer(**{"predictor.layers": 2}).model
    tokens = torch.tensor([[1, 5, 2], [3, 3, 0]])
    head = transducer_head(model)
    decoder = head.decoder
    expected = decoder(tokens)
    with_start = torch.nn.functional.pad(tokens, (1, 0), value=model.blank)
    zeros = torch.zeros(2, 2, 32)
    lengths = torch.full((2,), 4, dtype=torch.int32)
    pred, _, h, c = PredictorGraph(decoder)(with_start.int(), lengths, zeros, zeros)
    torch.testing.assert_close(pred.transpose(1, 2), expected)
    step, _ = decoder.step(torch.tensor([7, 8]), type(decoder.initial_state(2))(h, c))
    next_pred, *_ = PredictorGraph(decoder)(torch.tensor([[7], [8]]).int(), lengths, h, c)
    torch.testing.assert_close(next_pred[:, :, 0], step)
    enc = torch.randn(2, 6, model.cfg.encoder.d_model)
    logits = JoinerGraph(head.joint)(enc.transpose(1, 2), pred)
    torch.testing.assert_close(logits, head.joint(enc, expected))
