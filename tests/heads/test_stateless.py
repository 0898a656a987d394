"""The stateless predictor alone; test_zipformer.py compares it with icefall's recorded tensors."""

import pytest
import torch

from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig, SimpleJoint, StatelessConfig, StatelessPredictor
from maya.heads.transducer.stateless import StatelessState


@pytest.mark.parametrize("context", [1, 2, 3])
@pytest.mark.parametrize("blank", [None, 0])
def test_stepwise_output_equals_the_whole_sequence(context, blank):
    predictor = StatelessPredictor(StatelessConfig(hidden=8, context=context), 5, blank).eval()
    assert predictor.blank == (5 if blank is None else blank)
    tokens = torch.randint(1, 5, (3, 6))
    whole = predictor(tokens)
    assert whole.shape == (3, 7, 8)
    state = predictor.initial_state(3)
    read = torch.full((3,), predictor.blank)
    for u in range(7):
        out, state = predictor.step(read, state)
        torch.testing.assert_close(out, whole[:, u])
        read = tokens[:, u] if u < 6 else read


def test_an_output_depends_only_on_its_context():
    predictor = StatelessPredictor(StatelessConfig(hidden=8, context=2), 9).eval()
    tokens = torch.randint(0, 9, (1, 6))
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % 9
    differs = (predictor(tokens) != predictor(other)).any(-1)[0]
    assert differs.tolist() == [False, False, False, True, True, False, False]


def test_states_are_selected_by_row():
    a, b = StatelessState(torch.tensor([[1], [2], [3]])), StatelessState(torch.tensor([[4], [5], [6]]))
    assert a.select(torch.tensor([2, 0, 0])).labels.tolist() == [[3], [1], [1]]
    assert a.where(torch.tensor([True, False, True]), b).labels.tolist() == [[1], [5], [3]]


def test_every_parameter_gets_a_gradient_with_and_without_balancing():
    for probability in (0.0, 1.0):
        predictor = StatelessPredictor(StatelessConfig(hidden=8), 4).train()
        for switch in predictor.controls.switches:
            switch.probability = probability
        predictor(torch.tensor([[0, 1, 2, 3]])).square().sum().backward()
        assert all(p.grad.any() and p.grad.isfinite().all() for p in predictor.parameters())


def test_simple_joint_and_small_initial_weights():
    simple = SimpleJoint(8, 6, 4)
    am, lm = simple(torch.randn(2, 7, 8), torch.randn(2, 3, 6))
    assert am.shape == (2, 7, 5) and lm.shape == (2, 3, 5)
    assert simple.am.weight.abs().max() <= 0.25 * 8**-0.5 and simple.am.bias.abs().max() <= 0.025
    joint = Joint(JointConfig(hidden=16, init_scale=0.25), 8, 6, 4, blank=0)
    assert joint.enc.weight.abs().max() <= 0.25 * 8**-0.5 < joint.joint_net[2].weight.abs().max() * 4
    assert joint.blank == 0 and joint.split(torch.zeros(1, 5))[0].shape == (1, 5)


@pytest.mark.parametrize(("options", "vocab"), [({"hidden": 6}, 4), ({"context": 0}, 4), ({}, 0)])
def test_invalid_configurations_are_refused(options, vocab):
    with pytest.raises(MayaError, match="stateless predictor|StatelessConfig.context must be 1 or more"):
        StatelessPredictor(StatelessConfig(**options), vocab)
