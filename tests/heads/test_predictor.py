"""The prediction network: NeMo's numbers, start of sequence, causality, stepping."""

from pathlib import Path

import pytest
import torch

from maya.errors import MayaError
from maya.heads.transducer import Predictor, PredictorConfig


def make(layers: int = 2, dropout: float = 0.0) -> Predictor:
    return Predictor(PredictorConfig(hidden=8, layers=layers, dropout=dropout), vocab_size=6)


def test_equals_nemo(shared: Path) -> None:
    nemo = torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)
    predictor = Predictor(PredictorConfig(hidden=24, layers=2), vocab_size=nemo["V"]).eval()
    prefix = "decoder."
    state = {k.removeprefix(prefix): v for k, v in nemo["state_dict"].items() if k.startswith(prefix)}
    predictor.load_state_dict(state)  # strict: names and shapes are NeMo's
    torch.testing.assert_close(predictor(nemo["labels"]).mT, nemo["dec"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_stepping_from_blank_equals_the_whole_sequence(layers: int) -> None:
    predictor = make(layers).eval()
    tokens = torch.randint(6, (3, 5))
    whole = predictor(tokens)
    assert whole.shape == (3, 6, 8)
    state, read = predictor.initial_state(3), torch.full((3,), predictor.blank)
    for u in range(6):
        g, state = predictor.step(read, state)
        torch.testing.assert_close(g, whole[:, u], rtol=0, atol=1e-6)
        read = tokens[:, min(u, 4)]


def test_an_output_depends_only_on_earlier_tokens() -> None:
    predictor = make().eval()
    tokens = torch.randint(6, (1, 5))
    changed = tokens.clone()
    changed[0, 3] = (tokens[0, 3] + 1) % 6
    before, after = predictor(tokens), predictor(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_no_tokens_gives_the_start_state_only() -> None:
    assert make()(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 1, 8)


def test_blank_embedding_stays_zero() -> None:
    predictor = make()
    predictor(torch.tensor([[6, 1]])).sum().backward()
    embed = predictor.prediction["embed"].weight
    assert embed.shape == (7, 8) and not embed[6].any() and not embed.grad[6].any()
    assert embed.grad[1].any()


def test_forget_gates_start_at_one() -> None:
    lstm = make().prediction["dec_rnn"]["lstm"]
    for layer in range(2):
        total = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        assert torch.equal(total[8:16], torch.ones(8))
        assert not (total[:8] == 1).any() and not (total[16:] == 1).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_after_the_last_layer_in_training_only(layers: int) -> None:
    predictor = make(layers, dropout=0.5)
    out = predictor(torch.randint(6, (8, 20)))
    assert 0.3 < (out == 0).float().mean() < 0.7
    assert not (predictor.eval()(torch.randint(6, (8, 20))) == 0).any()


def test_states_are_selected_and_merged_by_row() -> None:
    predictor = make().eval()
    _, old = predictor.step(torch.tensor([0, 1, 2]), predictor.initial_state(3))
    _, new = predictor.step(torch.tensor([3, 4, 5]), old)
    merged = new.where(torch.tensor([True, False, True]), old)
    picked = merged.select(torch.tensor([1, 1, 0]))
    expected = [(old, 1), (old, 1), (new, 0)]
    for name in ("h", "c"):
        for row, (state, source) in enumerate(expected):
            assert torch.equal(getattr(picked, name)[:, row], getattr(state, name)[:, source])


def test_bfloat16_autocast_in_sequence_and_step_form() -> None:
    predictor = make().eval()
    tokens = torch.randint(6, (2, 3))
    whole = predictor(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(predictor(tokens).float(), whole, rtol=0, atol=0.02)
        g, state = predictor.step(torch.full((2,), 6), predictor.initial_state(2))
        g, _ = predictor.step(tokens[:, 0], state)
    torch.testing.assert_close(g.float(), whole[:, 1], rtol=0, atol=0.02)


def test_an_empty_model_is_refused() -> None:
    with pytest.raises(MayaError, match="PredictorConfig.layers must be 1 or more, not 0"):
        PredictorConfig(layers=0)
    with pytest.raises(MayaError, match="a vocabulary of at least 1"):
        Predictor(PredictorConfig(), vocab_size=0)
