"""The language model inside a transducer: predictor and joint without the encoder (Meng et al. 2021, ILME,
arXiv:2011.01991). Its scores are subtracted, by a negative weight, before those of an outer language
model."""

from typing import Any

import torch
from torch import Tensor, nn

from maya.decode.fusion import State
from maya.heads.transducer import AnyPredictor, Joint
from maya.heads.transducer.predictor import PredictorState
from maya.heads.transducer.stateless import StatelessState


class InternalLM(nn.Module):
    """A scorer (see `maya.decode.fusion.Scorer`): log probabilities among the labels, blank left out, of a
    joint whose encoder output is zero. It has no end of the text. Its state is the predictor's, rows first,
    and the scores (N, V)."""

    def __init__(self, predictor: AnyPredictor, joint: Joint, blank: int) -> None:
        super().__init__()
        self.predictor, self.joint, self.blank = predictor, joint, blank

    @torch.no_grad()
    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        device = self.joint.enc.weight.device
        tokens = torch.full((rows,), self.blank, device=device)
        return self._read(tokens, self.predictor.initial_state(rows, device))

    def _read(self, tokens: Tensor, state: Any) -> State:
        out, state = self.predictor.step(tokens, state)
        silence = self.joint.project_encoder(out.new_zeros(len(out), self.joint.enc.in_features))
        logits, _ = self.joint.split(self.joint.output(silence, self.joint.project_predictor(out)))
        logits = logits.float()
        logits[:, self.blank] = -torch.inf
        scores = logits.log_softmax(-1)
        scores[:, self.blank] = 0.0
        return _as_tensors(state), scores

    def scores(self, state: State) -> Tensor:
        return state[1]

    @torch.no_grad()
    def advance(self, state: State, tokens: Tensor) -> State:
        return self._read(tokens, _as_state(state[0]))

    def final(self, state: State) -> Tensor:
        return torch.zeros_like(state[1][:, 0])


def _as_tensors(state: Any) -> tuple[Tensor, ...]:
    """A predictor's state with the rows first."""
    if isinstance(state, PredictorState):
        return state.h.transpose(0, 1), state.c.transpose(0, 1)
    return (state.labels,)


def _as_state(tensors: tuple[Tensor, ...]) -> Any:
    if len(tensors) == 2:
        return PredictorState(tensors[0].transpose(0, 1), tensors[1].transpose(0, 1))
    return StatelessState(tensors[0])
