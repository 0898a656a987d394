"""Statistics of a model's frames on the speech that it was trained on, for methods that compare with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maya.errors import MayaError
from maya.models.speech_model import SpeechModel

_LEAST = 1e-4  # of a standard deviation, so that a constant channel does not outweigh all others


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Statistics by layer of the encoder, layer 0 (the front end) first, of D_l channels each.

    means, deviations: (D_l,) over all frames. token_means, token_deviations: (V, D_l) over the frames whose
    likeliest label is the token. counts: (V,) such frames; tokens without two of them are not compared.
    """

    means: list[Tensor]
    deviations: list[Tensor]
    token_means: list[Tensor]
    token_deviations: list[Tensor]
    counts: Tensor


@torch.no_grad()
def measure_source(
    model: SpeechModel, head: str, utterances: Iterable[tuple[Tensor, int]]
) -> SourceStatistics:
    """The statistics over utterances (audio (N,) at the model's rate, language index or -1), which should be
    of the training data. Raises MayaError without any."""
    ctc: Any = model.head(head)
    layers, sums, squares, counts = range(len(model.cfg.encoder.hidden_dims)), [], [], None
    for audio, lang in utterances:
        lens = torch.tensor([len(audio)], device=audio.device)
        encoded = model.encode_audio(audio[None], lens, hidden=list(layers))
        given = model.with_language(encoded, torch.tensor([lang], device=audio.device))
        logits = ctc.logits((given if ctc.conditioned else encoded).frames)[0]
        members = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()  # (S, V)
        states = [encoded.hidden[n][0].double() for n in layers]
        if counts is None:
            counts = members.new_zeros(members.shape[1])
            sums = [members.new_zeros(members.shape[1], x.shape[1]) for x in states]
            squares = [torch.zeros_like(x) for x in sums]
        counts += members.sum(0)
        for total, square, x in zip(sums, squares, states, strict=True):
            total += members.T @ x
            square += members.T @ x.square()
    if counts is None or counts.sum() < 2:
        raise MayaError("there is no speech to measure the model's frames on: give some of its training data")
    whole = [_moments(s.sum(0), q.sum(0), counts.sum()) for s, q in zip(sums, squares, strict=True)]
    tokens = [_moments(s, q, counts[:, None]) for s, q in zip(sums, squares, strict=True)]
    return SourceStatistics(
        means=[m for m, _ in whole], deviations=[d for _, d in whole], token_means=[m for m, _ in tokens],
        token_deviations=[d for _, d in tokens], counts=counts.float(),
    )  # fmt: skip


def _moments(total: Tensor, square: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, fp32, of sums over `count` frames."""
    mean = total / count.clamp(min=1)
    variance = (square / count.clamp(min=1) - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().clamp(min=_LEAST).float()
