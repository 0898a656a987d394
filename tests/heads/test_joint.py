"""The joint network: NeMo's numbers, and the pieces that decoding uses equal the whole."""

from pathlib import Path

import pytest
import torch

from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig


def test_equals_nemo(shared: Path) -> None:
    nemo = torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)
    joint = Joint(JointConfig(hidden=24), 32, 24, nemo["V"], len(nemo["durations"])).eval()
    prefix = "joint."
    state = {k.removeprefix(prefix): v for k, v in nemo["state_dict"].items() if k.startswith(prefix)}
    joint.load_state_dict(state)  # strict: names and shapes are NeMo's
    logits = joint(nemo["enc"].mT[:, : nemo["elen"].max()], nemo["dec"].mT)
    torch.testing.assert_close(logits, nemo["joint_logits"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_a_single_cell_equals_the_lattice_and_all_parameters_have_gradients(activation: str) -> None:
    joint = Joint(
        JointConfig(hidden=8, activation=activation, dropout=0.0), 5, 6, vocab_size=4, num_durations=3
    )
    enc, pred = torch.randn(2, 7, 5), torch.randn(2, 4, 6)
    logits = joint(enc, pred)
    assert logits.shape == (2, 7, 4, 4 + 1 + 3)
    cell = joint.output(joint.project_encoder(enc[:, 3]), joint.project_predictor(pred[:, 2]))
    torch.testing.assert_close(cell, logits[:, 3, 2])
    act = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation]
    hidden = act(joint.enc(enc)[:, :, None] + joint.pred(pred)[:, None])
    torch.testing.assert_close(joint.joint_net[2](hidden), logits)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in joint.parameters())


@pytest.mark.parametrize("durations", [0, 3])
def test_split_puts_blank_last_among_tokens(durations: int) -> None:
    joint = Joint(JointConfig(hidden=8), 5, 6, vocab_size=4, num_durations=durations)
    logits = torch.arange(5 + durations)[None]
    tokens, rest = joint.split(logits)
    assert tokens.tolist() == [[0, 1, 2, 3, 4]] and joint.blank == 4
    assert rest.tolist() == [list(range(5, 5 + durations))]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_last_linear_is_index_2_with_and_without_dropout(dropout: float) -> None:
    names = set(Joint(JointConfig(hidden=8, dropout=dropout), 5, 6, 4, 0).state_dict())
    assert names == {f"{m}.{p}" for m in ("enc", "pred", "joint_net.2") for p in ("weight", "bias")}


def test_an_empty_model_is_refused() -> None:
    with pytest.raises(MayaError, match="JointConfig.hidden must be 1 or more, not 0"):
        JointConfig(hidden=0)
    with pytest.raises(MayaError, match="a vocabulary of at least 1"):
        Joint(JointConfig(hidden=4), 5, 6, 0, 0)
