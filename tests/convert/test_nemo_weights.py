"""Conversion of parameter names between NeMo and Maya, in both directions."""

from typing import Any

import pytest
import torch

from maya.convert.nemo.parts import nemo_parts
from maya.convert.nemo.weights import contradictions, from_nemo_names, to_nemo_names
from tests.convert.archives import recognizer


@pytest.mark.parametrize(
    ("family", "fields", "nemo_name"),
    [
        ("hybrid", {"joint.dropout": 0.2}, "joint.joint_net.2.weight"),
        ("hybrid", {"joint.dropout": 0.0}, "joint.joint_net.1.weight"),
        ("ctc", {"transducer": "none", "ctc_weight": 1.0}, "decoder.decoder_layers.0.weight"),
        ("rnnt", {"ctc_weight": 0.0, "encoder.untie_biases": False}, "encoder.layers.1.self_attn.pos_bias_u"),
    ],
)
def test_names_round_trip(family: str, fields: dict[str, Any], nemo_name: str) -> None:
    model = recognizer(**fields).model
    parts = nemo_parts(model.cfg, "NeMo")
    assert parts.family == family
    stored = to_nemo_names(model.state_dict(), parts)
    assert nemo_name in stored and "encoder.pos_bias_u" not in stored
    back = from_nemo_names(stored, parts)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert list(contradictions(back, model.cfg)) == []
    model.cfg.encoder.n_layers, model.cfg.encoder.d_model = 3, 64
    assert [name for name, _, _ in contradictions(back, model.cfg)][:2] == [
        "encoder.n_layers",
        "encoder.d_model",
    ]
