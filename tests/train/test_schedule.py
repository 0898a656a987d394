import pytest

from maya.train.schedule import encoder_share, warmup_cosine

OPTIONS = {"peak": 2.0, "floor": 0.1, "warmup_steps": 10, "total_steps": 110}


def test_rises_to_the_peak_then_falls_to_the_floor() -> None:
    rates = [warmup_cosine(s, **OPTIONS) for s in range(200)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in zip(rates[10:110], rates[11:111], strict=True))
    assert rates[60] == pytest.approx((2.0 + 0.1) / 2)
    assert rates[110] == pytest.approx(0.1) and rates[199] == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0, peak=1.0, floor=0.0, warmup_steps=0, total_steps=10) == 1.0


def test_the_encoder_waits_then_follows() -> None:
    shares = [encoder_share(s, 10) for s in range(30)]
    assert shares[:9] == [0.0] * 9 and shares[9] == 0.0 and shares[10] == pytest.approx(0.1)
    assert shares[18] < 1.0 and shares[19:] == [1.0] * 11
    assert encoder_share(0, 0) == 1.0
