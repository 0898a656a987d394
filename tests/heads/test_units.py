"""CTC over the units of a label, such as phonemes."""

from typing import Any

import pytest
import torch

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadContext, LossStep
from maya.heads.units import UnitCTCConfig
from tests.heads.test_classify import batch_of


def head_of(**options: Any) -> Any:
    cfg = UnitCTCConfig(units=("h", "ə", "l", "oʊ"), **options)
    return cfg.build(HeadContext(dim=8, labels=3, blank=3))


def test_it_learns_its_units() -> None:
    head = head_of(upsampling=2)
    frames, lens = torch.randn(3, 6, 8), torch.tensor([6, 5, 6])
    labels: list[str | None] = ["h ə l oʊ", "l l", None]
    batch = batch_of([0.1] * 3, {"phonemes": labels})
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = head.losses(Encoded(frames, lens), batch, LossStep())["loss"]
        loss.sum().backward()
        optimizer.step()
    assert loss[0] < 0.3 and loss[1] < 0.3 and loss[2] == 0
    assert [" ".join(row) for row in head.decode(Encoded(frames, lens))[:2]] == ["h ə l oʊ", "l l"]


def test_too_few_frames_are_infeasible_without_upsampling() -> None:
    encoded, batch = (
        Encoded(torch.randn(1, 3, 8), torch.tensor([3])),
        batch_of([0.1], {"phonemes": ["h ə l oʊ"]}),
    )
    assert head_of().losses(encoded, batch, LossStep())["loss"].isinf().all()
    assert head_of(upsampling=2).losses(encoded, batch, LossStep())["loss"].isfinite().all()


def test_unknown_units_and_missing_options_are_refused() -> None:
    with pytest.raises(MayaError, match="has the unit 'x'"):
        head_of().ids("h x")
    with pytest.raises(MayaError, match="needs the name of a label and its units"):
        UnitCTCConfig().build(HeadContext(dim=8, labels=3, blank=3))
