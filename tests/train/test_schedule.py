from collections.abc import Callable
from typing import Any

import pytest

from maya.errors import MayaError
from maya.heads import HeadConfig
from maya.models.hybrid import hybrid
from maya.train.config import TrainConfig, check
from maya.train.optimizers import schedule
from maya.train.optimizers.eden import EdenConfig, eden
from maya.train.optimizers.schedule import encoder_share, warmup_cosine

OPTIONS = {"peak": 2.0, "floor": 0.1, "warmup_steps": 10, "total_steps": 110}


def test_rate_rises_to_the_peak_then_falls_to_the_floor() -> None:
    rates = [warmup_cosine(s, **OPTIONS) for s in range(200)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in zip(rates[10:110], rates[11:111], strict=True))
    assert rates[60] == pytest.approx((2.0 + 0.1) / 2)
    assert rates[110] == pytest.approx(0.1) and rates[199] == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0, peak=1.0, floor=0.0, warmup_steps=0, total_steps=10) == 1.0


def test_held_encoder_then_follows_the_heads() -> None:
    shares = [encoder_share(s, 10) for s in range(30)]
    assert shares[:9] == [0.0] * 9 and shares[9] == 0.0 and shares[10] == pytest.approx(0.1)
    assert shares[18] < 1.0 and shares[19:] == [1.0] * 11
    assert encoder_share(0, 0) == 1.0


def production() -> TrainConfig:
    """The schedule of the 1.1 B recipe."""
    return TrainConfig(
        steps=200_000, warmup_steps=2_000, lr=1e-3, encoder_lr=2e-5, min_lr=1e-5, freeze=("encoder",),
        freeze_steps=5_000,
    )  # fmt: skip


def heads(**options: Any) -> dict[str, HeadConfig]:
    """The heads of a hybrid model."""
    return hybrid(vocab_size=10, **options).heads


def test_encoder_and_heads_share_one_cosine_and_its_floor() -> None:
    cfg = production()
    steps = range(7_000, 200_001, 1_000)  # after the warm-up of both
    of_heads, encoder = (
        [rate(cfg, s) for s in steps] for rate in (schedule.head_rate, schedule.encoder_rate)
    )
    done = [(h - 1e-5) / (1e-3 - 1e-5) for h in of_heads]
    assert done == pytest.approx([(e - 1e-5) / (2e-5 - 1e-5) for e in encoder])
    assert of_heads[-1] == encoder[-1] == 1e-5
    assert schedule.head_rate(cfg, 1_999) == 1e-3


def test_the_encoder_warms_up_when_it_begins_to_learn() -> None:
    cfg = production()
    rates = [schedule.encoder_rate(cfg, s) for s in (0, 4_999, 5_000, 5_999, 6_999)]
    assert rates[:2] == [0.0, 0.0]
    assert rates[2] == pytest.approx(2e-5 / 2_000, rel=2e-3)
    assert rates[3] == pytest.approx(1e-5, rel=2e-3) and rates[4] == pytest.approx(2e-5, rel=2e-3)


def test_peak_below_the_floor_is_constant() -> None:
    cfg = TrainConfig(steps=100, warmup_steps=0, encoder_lr=1e-6, min_lr=1e-5)
    assert {schedule.encoder_rate(cfg, s) for s in range(101)} == {1e-6}


def test_encoder_rate_defaults_to_the_head_rate() -> None:
    cfg = TrainConfig(steps=100, warmup_steps=10)
    assert all(schedule.encoder_rate(cfg, s) == schedule.head_rate(cfg, s) for s in range(100))


def test_changing_head_weights() -> None:
    rising = heads(ctc_ramp=3_000)
    weights = [schedule.changing_weights(rising, s) for s in (0, 1_500, 3_000, 9_000)]
    assert [w["ctc"] for w in weights] == pytest.approx([0.0, 0.15, 0.3, 0.3])
    assert [w["transducer"] for w in weights] == pytest.approx([1.0, 0.85, 0.7, 0.7])
    first = heads(ctc_first=10, language_id_weight=0.2)  # the language head's weight does not change
    assert [schedule.changing_weights(first, s) for s in (0, 9, 10)] == [
        *2 * [{"transducer": 0.0, "ctc": 1.0}], {"transducer": 0.7, "ctc": 0.3},
    ]  # fmt: skip
    assert schedule.changing_weights(heads(), 0) == {}


def test_phase_changes_are_named_at_their_steps() -> None:
    cfg = production()
    changes = {s: c for s in range(8_000) if (c := schedule.phase_changes(cfg, s, heads(ctc_ramp=3_000)))}
    assert changes == {
        0: {"encoder": "frozen", "heads": "warming up", "ctc": "rising"},
        2_000: {"heads": "learning"},
        3_000: {"ctc": "full"},
        5_000: {"encoder": "warming up"},
        7_000: {"encoder": "learning"},
    }


def test_phases_of_a_held_encoder() -> None:
    cfg = TrainConfig(encoder_hold=10, warmup_steps=2)
    seen = {s: schedule.phases(cfg, s, heads(ctc_first=5)) for s in (0, 10, 20)}
    assert [seen[s]["encoder"] for s in seen] == ["held", "warming up", "learning"]
    assert [seen[s]["transducer"] for s in seen] == ["waiting", "full", "full"]
    assert schedule.encoder_rate(cfg, 19) == schedule.head_rate(cfg, 19)
    assert schedule.phases(cfg, 0, heads()).keys() == {"encoder", "heads"}


@pytest.mark.parametrize(
    "cfg",
    [
        TrainConfig(schedule="eden", eden=EdenConfig(warmup_steps=50), warmup_steps=10, encoder_hold=5),
        TrainConfig(schedule="eden", eden=EdenConfig(warmup_steps=20), freeze=("encoder",), freeze_steps=30),
        TrainConfig(warmup_steps=40, encoder_hold=10, steps=10**6),
    ],
)
def test_a_part_warms_up_as_long_as_its_rate_rises(cfg: TrainConfig) -> None:
    for step in range(1, 100):
        words = schedule.phases(cfg, step, heads())
        assert (words["heads"] == "warming up") == _rises(schedule.head_rate, cfg, step)
        if words["encoder"] not in ("held", "frozen"):
            assert (words["encoder"] == "warming up") == _rises(schedule.encoder_rate, cfg, step)


def _rises(rate: Callable[[TrainConfig, int], float], cfg: TrainConfig, step: int) -> bool:
    """Whether the rate of this step is above that of the step before."""
    return rate(cfg, step) > rate(cfg, step - 1) * (1 + 1e-6)


def test_parts_frozen_throughout() -> None:
    cfg = TrainConfig(freeze=("encoder", "ctc"), steps=50)
    for step in (0, 1, 49, 10**9):
        assert schedule.frozen(cfg, step) == schedule.frozen_throughout(cfg) == {"encoder", "ctc"}
        assert schedule.encoder_rate(cfg, step) == 0.0 and schedule.head_rate(cfg, step) > 0
        words = schedule.phases(cfg, step, heads())
        assert (words["encoder"], words["ctc"]) == ("frozen", "frozen")
    assert schedule.head_steps(cfg, 20, heads()) == {"transducer": 20, "ctc": 0}
    cfg.freeze_steps = 15
    assert schedule.frozen_throughout(cfg) == frozenset()
    assert [schedule.frozen(cfg, s) for s in (14, 15)] == [{"encoder", "ctc"}, frozenset()]
    assert schedule.head_steps(cfg, 20, heads(ctc_ramp=5)) == {"transducer": 20, "ctc": 5}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder_hold": 5, "freeze": ("encoder",), "freeze_steps": 5}, "choose one"),
        ({"freeze_steps": 5}, "needs train.freeze"),
        ({"freeze": ("decoder",)}, "names 'decoder'; the parts of this model are encoder, transducer, ctc"),
        ({"freeze": ("encoder", "transducer", "ctc")}, "nothing would learn"),
        ({"encoder_layer_decay": 1.1}, "1 or less"),
        ({"encoder_layer_decay": 0.0}, "above 0"),
    ],
)
def test_contradictory_schedules_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MayaError, match=sentence):
        check(TrainConfig(**options), hybrid(vocab_size=10))


def test_eden_follows_steps_and_epochs_and_a_thawed_encoder_warms_up_to_it():
    cfg = TrainConfig(schedule="eden", lr=0.045, encoder_lr=0.02, freeze=("encoder",), freeze_steps=1_000)
    for step, epoch in ((0, 0), (499, 0), (10_000, 2), (90_000, 30)):
        assert schedule.head_rate(cfg, step, epoch) == eden(step, epoch, peak=0.045, cfg=cfg.eden)
    assert schedule.head_rate(cfg, 10_000, 3) < schedule.head_rate(cfg, 10_000, 2)
    assert schedule.encoder_rate(cfg, 999) == 0
    rates = [
        schedule.encoder_rate(cfg, s) / eden(s, 0, peak=0.02, cfg=cfg.eden) for s in (1_000, 1_249, 1_499)
    ]
    assert rates == pytest.approx([1 / 500, 0.5, 1.0])
    assert schedule.encoder_rate(cfg, 5_000, 1) == eden(5_000, 1, peak=0.02, cfg=cfg.eden)
