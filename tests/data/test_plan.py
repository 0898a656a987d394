import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maya.data.plan import BatchPlan, CostConfig, PlanConfig, Position
from maya.errors import MayaError

Data = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def corpus(n: int, seed: int = 0, languages: int = 3) -> Data:
    """Durations, token counts and languages; the last language is the rarest."""
    rng = np.random.default_rng(seed)
    durations = rng.gamma(3.0, 1.5, n).clip(0.2, 20.0).round(3)
    tokens = np.maximum(1, durations * rng.uniform(1, 8, n)).astype(np.int64)
    shares = 1.0 / 4.0 ** np.arange(languages)
    return durations, tokens, rng.choice(languages, n, p=shares / shares.sum())


plans = st.builds(
    dict,
    n=st.integers(1, 300),
    seed=st.integers(0, 5),
    world_size=st.sampled_from([1, 2, 3, 8]),
    max_seconds=st.sampled_from([None, 20.0, 33.3, 200.0]),
    max_utterances=st.sampled_from([None, 1, 5, 64]),
    max_tokens=st.sampled_from([None, 120, 1000]),
    max_lattice=st.sampled_from([5_000, 100_000]),
    temperature=st.sampled_from([1.0, 0.3, 0.0]),
    num_buckets=st.sampled_from([1, 30]),
    speeds=st.sampled_from([(1.0,), (0.9, 1.0, 1.1)]),
    epoch=st.integers(0, 3),
)


def make_all(case: dict) -> tuple[Data, list[BatchPlan]]:
    data = corpus(case["n"], case["seed"])
    names = (
        "seed",
        "max_seconds",
        "max_utterances",
        "max_tokens",
        "max_lattice",
        "temperature",
        "num_buckets",
    )
    cfg = PlanConfig(**{name: case[name] for name in names})
    options = {"world_size": case["world_size"], "speeds": case["speeds"]}
    return data, [BatchPlan(*data, cfg, rank=rank, **options) for rank in range(case["world_size"])]


@given(plans)
@settings(max_examples=60, deadline=None)
def test_caps_hold_and_ranks_agree(case: dict) -> None:
    (durations, tokens, _), ranks = make_all(case)
    cfg, epoch = ranks[0].cfg, case["epoch"]
    assert len({plan.num_batches(epoch) for plan in ranks}) == 1, "a rank with fewer steps hangs the others"
    for plan in ranks:
        assert plan.num_batches(epoch) > 0
        for index, batch in enumerate(plan.epoch(epoch)):
            assert 1 <= len(batch) <= (cfg.max_utterances or len(durations) * 20)
            speeds = np.array(plan.batch_speeds(epoch, index))
            assert set(speeds) <= set(case["speeds"]) and len(speeds) == len(batch)
            if len(batch) == 1:
                continue
            seconds, most = (durations[batch] / speeds).max(), tokens[batch].max()
            assert len(batch) * seconds <= (cfg.max_seconds or np.inf) * 1.00001
            assert len(batch) * most <= (cfg.max_tokens or np.inf)
            frames = np.ceil(seconds / cfg.frame_seconds - 0.001)
            assert cfg.max_lattice is None or len(batch) * frames * (most + 1) <= cfg.max_lattice


@given(plans)
@settings(max_examples=60, deadline=None)
def test_natural_epoch_holds_every_utterance_once(case: dict) -> None:
    (durations, _, _), ranks = make_all(case | {"temperature": 1.0})
    seen = sorted(i for plan in ranks for batch in plan.epoch(case["epoch"]) for i in batch)
    repeated = ranks[0].stats(case["epoch"]).repeated_batches
    assert len(seen) == len(durations) + repeated and set(seen) == set(range(len(durations)))
    assert repeated < case["world_size"]
    if repeated:  # only where no batch could be halved to give every rank one
        assert all(len(batch) == 1 for plan in ranks for batch in plan.epoch(case["epoch"]))


@given(plans)
@settings(max_examples=30, deadline=None)
def test_a_new_plan_gives_any_batch(case: dict) -> None:
    _, first = make_all(case)
    _, again = make_all(case)
    epoch, rank = case["epoch"], case["world_size"] - 1
    batches = first[rank].epoch(epoch)
    for index in reversed(range(len(batches))):
        assert again[rank].batch(epoch, index) == batches[index]
        assert again[rank].batch_speeds(epoch, index) == first[rank].batch_speeds(epoch, index)


@given(plans, st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.floats(0, 1)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_resumes_with_another_number_of_ranks(
    case: dict, stretches: list[tuple[int, float]]
) -> None:
    """The number of ranks changes up to three times within an epoch, which still has each utterance once."""
    (durations, _, _), ranks = make_all(case | {"temperature": 1.0})
    plan, epoch = ranks[0], case["epoch"]
    position, seen = Position(epoch, 0), []
    for world_size, share in [*stretches, (case["world_size"], 1.0)]:
        plans = [plan.for_rank(rank, world_size) for rank in range(world_size)]
        position = plans[0].resume(position)
        if position.epoch > epoch:
            break
        for _ in range(round(share * plans[0].remaining(position))):
            step = [rank_plan.take(position).rows.tolist() for rank_plan in plans]
            assert all(step)
            seen += sum(step, [])
            position = plans[-1].advance(position)
        assert all(rank_plan.resume(list(position)) == plans[0].resume(position) for rank_plan in plans)
        if position.epoch > epoch:
            break
    assert set(seen) == set(range(len(durations)))
    assert len(seen) - len(durations) <= 8 * (len(stretches) + 1), "only the last step repeats utterances"
    assert position == (epoch + 1, 0, position.ranks, (), "")


def test_a_position_survives_json() -> None:
    plan = BatchPlan(*corpus(400), PlanConfig(max_seconds=30), world_size=2)
    position = plan.resume([0, 3, 8, [[4, 1]]])
    assert position == Position(0, 0, 2, ((4, 1), (8, 3)))
    assert plan.resume(json.loads(json.dumps(position))) == position
    assert plan.resume([0, 0, 8]) == Position(0, 0, 2), "nothing was done with 8 ranks"
    with pytest.raises(MayaError, match=r"batch 999 of epoch 0, which has only \d+"):
        plan.resume([0, 999])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3, 0.0])
def test_hours_follow_the_temperature(temperature: float) -> None:
    durations, tokens, langs = corpus(4000)
    plan = BatchPlan(durations, tokens, langs, PlanConfig(temperature=temperature))
    hours = np.bincount(langs, weights=durations) / 3600
    expected = hours.sum() * hours**temperature / (hours**temperature).sum()
    for epoch in (0, 1):
        stats = plan.stats(epoch)
        assert [stats.hours[code] for code in range(3)] == pytest.approx(expected, rel=0.08)
        assert stats.seconds == pytest.approx(durations.sum(), rel=0.05), "an epoch keeps its length"
        for code in range(3):
            drawn = [i for batch in plan.epoch(epoch) for i in batch if langs[i] == code]
            distinct, total = len(set(drawn)), int((langs == code).sum())
            assert stats.repeated[code] == pytest.approx(1 - distinct / len(drawn))
            assert stats.skipped[code] == pytest.approx(1 - distinct / total)
            assert min(stats.repeated[code], stats.skipped[code]) == 0, (
                "no utterance is repeated before all are used"
            )


@pytest.mark.parametrize("temperature", [0.5, 0.0])
def test_utterances_of_a_language_are_drawn_equally_often_over_epochs(temperature: float) -> None:
    """Sampling goes through each language in turn: counts of its utterances differ by at most one."""
    durations, tokens, langs = corpus(500)
    plan = BatchPlan(durations, tokens, langs, PlanConfig(temperature=temperature, max_seconds=60))
    count = np.zeros(500, dtype=int)
    for epoch in range(7):
        for batch in plan.epoch(epoch):
            np.add.at(count, batch, 1)
    for code in range(3):
        counts = count[langs == code]
        assert counts.max() - counts.min() <= 1
    assert count[langs == 2].min() > count[langs == 0].max(), (
        "the rare language is repeated, the common thinned"
    )


def test_epochs_are_shuffled() -> None:
    plan = BatchPlan(*corpus(1000), PlanConfig(max_seconds=50))
    first, second = plan.epoch(0), plan.epoch(1)
    assert first != second
    assert len({frozenset(b) for b in first} & {frozenset(b) for b in second}) < 0.1 * len(first)
    other = BatchPlan(*corpus(1000), PlanConfig(max_seconds=50, seed=1)).epoch(0)
    assert first != other
    # Batches are made in order of duration, but steps must not be in that order.
    means = [plan.durations[b].mean() for b in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_utterances_of_equal_duration_are_shuffled() -> None:
    """All files have one length and are ordered by speaker; batches must mix speakers."""
    plan = BatchPlan(np.full(1000, 5.0), np.full(1000, 9), np.zeros(1000), PlanConfig(max_seconds=100))
    spread = [max(b) - min(b) for b in plan.epoch(0)]
    assert min(spread) > 300


def test_padding_is_small_and_ranks_do_equal_work() -> None:
    data = corpus(20_000)
    ranks = [BatchPlan(*data, PlanConfig(), rank=r, world_size=4) for r in range(4)]
    stats = ranks[0].stats(0)
    assert stats.efficiency > 0.9
    assert stats == ranks[3].stats(0)
    padded = np.array(
        [[len(b) * data[0][b].max() for b in plan.epoch(0)] for plan in ranks]
    )  # (ranks, steps)
    waiting = 1 - padded.mean(axis=0) / padded.max(axis=0)
    assert waiting.mean() < 0.03, "ranks wait for the longest of a step"
    longest = np.array([[data[0][b].max() for b in plan.epoch(0)] for plan in ranks])
    share = np.bincount(longest.argmax(axis=0), minlength=4) / longest.shape[1]
    assert share.min() > 0.1 and share.max() < 0.4, "no rank always has the longest utterances"


def test_ranks_do_equal_work_with_costly_tokens() -> None:
    """The number of tokens per second differs by a factor of eight between utterances."""
    durations, tokens, langs = corpus(40_000)
    cost = CostConfig(attention_frames=500, lattice=0.05)
    caps = {"max_seconds": 60.0, "max_tokens": 1500, "max_lattice": 60_000}
    stats = BatchPlan(durations, tokens, langs, PlanConfig(cost=cost, **caps), world_size=8).stats(0)
    assert 1 <= stats.imbalance_median <= 1.05 and stats.imbalance_p95 <= 1.2
    assert stats.efficiency > 0.94 and stats.over_cap == 0
    assert stats.max_tokens <= 1500 and stats.max_lattice <= 60_000 and stats.max_padded_seconds <= 60.001
    # Batches are as large as the caps allow; one fixed size would need several times as many batches.
    room = np.minimum(60 / durations, np.minimum(1500 / tokens, 60_000 / (durations / 0.08 * (tokens + 1))))
    assert stats.batches < 1.15 * (1 / room).sum()


def test_one_outlier_does_not_shrink_the_other_batches() -> None:
    durations, tokens, langs = np.full(1000, 5.0), np.full(1000, 20), np.zeros(1000)
    tokens[500] = 900
    plan = BatchPlan(durations, tokens, langs, PlanConfig(max_seconds=100, max_tokens=1000))
    assert sorted(map(len, plan.epoch(0)))[-48:] == [20] * 48 and plan.num_batches(0) <= 52


def test_stats_count_the_planned_utterances() -> None:
    data = corpus(50)
    cfg = PlanConfig(max_seconds=30, temperature=1.0)
    plans = [BatchPlan(*data, cfg, rank=r, world_size=3) for r in range(3)]
    batches = [batch for plan in plans for batch in plan.epoch(0)]
    stats = plans[1].stats(0)
    assert (stats.batches, stats.steps) == (len(batches), len(batches) // 3)
    assert stats.utterances == sum(map(len, batches)) == 50
    assert stats.seconds == pytest.approx(data[0].sum())
    assert stats.padded_seconds == pytest.approx(sum(len(b) * data[0][b].max() for b in batches))
    assert stats.max_utterances == max(map(len, batches))
    assert sum(stats.hours.values()) * 3600 == pytest.approx(stats.seconds)


def test_finer_buckets_pad_less() -> None:
    data = corpus(5000)
    few, many = (BatchPlan(*data, PlanConfig(num_buckets=n)).stats(0).efficiency for n in (1, 30))
    assert many > few + 0.1


def test_unknown_languages_are_counted_apart() -> None:
    """Utterances in a language that the model lacks have the index -1."""
    durations, tokens = np.full(30, 2.0, np.float32), np.full(30, 5, np.int32)
    langs = np.repeat(np.array([-1, 0, 1], np.int16), [5, 10, 15])
    plan = BatchPlan(durations, tokens, langs, PlanConfig(temperature=1.0, max_seconds=20.0))
    hours = plan.stats(0).as_dict(("en", "hi"))["hours"]
    assert {code: round(3600 * value) for code, value in hours.items()} == {"unknown": 10, "en": 20, "hi": 30}


def test_advance_moves_to_the_next_epoch() -> None:
    plan = BatchPlan(*corpus(40), PlanConfig(max_seconds=30))
    last = plan.num_batches(0) - 1
    assert plan.advance(Position(0, 0)) == Position(0, 1)
    assert plan.advance(Position(0, last)) == Position(1, 0)


def test_a_too_long_utterance_is_refused_or_batched_alone() -> None:
    durations, tokens, langs = corpus(20)
    durations[7] = 99.0
    ids = [f"utt-{i}" for i in range(20)]
    with pytest.raises(MayaError, match=r"'utt-7' is 99\.0 s long.*max_seconds=50.*raise max_seconds"):
        BatchPlan(durations, tokens, langs, PlanConfig(max_seconds=50), ids=ids)
    plan = BatchPlan(durations, tokens, langs, PlanConfig(max_seconds=50, too_long="alone"))
    assert [7] in plan.epoch(0)


def test_batches_use_the_caps_fully() -> None:
    """10 * 2.1 is 21.000000000000004 in floating point and must still fit into 21 seconds."""
    plan = BatchPlan([2.1] * 20, [1] * 20, [0] * 20, PlanConfig(max_seconds=21.0))
    assert [len(batch) for batch in plan.epoch(0)] == [10, 10]


def test_lattice_cap_counts_the_blank_row() -> None:
    """Frames times (tokens + 1): ten utterances of 10 frames and 1 token have 200 nodes, not 100."""
    cfg = PlanConfig(max_lattice=100)
    plan = BatchPlan([0.8] * 10, [1] * 10, [0] * 10, cfg)
    assert sorted(map(len, plan.epoch(0))) == [5, 5]
    assert plan.stats(0).max_lattice == 100


def test_no_utterance_is_refused_for_a_change_of_speed() -> None:
    plan = BatchPlan([10.0, 10.0], [1, 1], [0, 0], PlanConfig(max_seconds=10), speeds=(0.9,))
    assert sorted(plan.epoch(0)) == [[0], [1]]
    assert plan.stats(0).max_padded_seconds == pytest.approx(10 / 0.9)


@pytest.mark.parametrize(
    ("durations", "changes", "message"),
    [
        ([], {}, "no utterance to plan"),
        ([1.0], {"max_seconds": 0.0}, "max_seconds must be above 0, not 0"),
        ([1.0], {"max_seconds": None, "max_utterances": None}, "no cap .* set one of max_seconds"),
        ([1.0], {"temperature": 1.5}, "temperature must be from 0 to 1, not 1.5"),
        ([1.0], {"num_buckets": 0}, "num_buckets must be 1 or more, not 0"),
        ([0.0], {}, "duration above zero"),
        ([float("nan")], {}, "duration above zero"),
    ],
)
def test_bad_input_is_a_clear_error(durations: list[float], changes: dict, message: str) -> None:
    with pytest.raises(MayaError, match=message):
        BatchPlan(durations, [1] * len(durations), [0] * len(durations), PlanConfig(**changes))


def test_bad_speeds_are_refused() -> None:
    with pytest.raises(MayaError, match="speed factors must be positive"):
        BatchPlan([1.0], [1], [0], PlanConfig(), speeds=(0.9, 0.0))


def test_a_hundred_thousand_utterances_are_planned_in_seconds() -> None:
    data = corpus(100_000)
    began = time.process_time()
    plan = BatchPlan(*data, PlanConfig(temperature=0.5), world_size=8, speeds=(0.9, 1.0, 1.1))
    plan.num_batches(0)
    assert time.process_time() - began < 3.0  # about 0.1 on an idle machine


def test_seeking_shuffles_one_bucket_only() -> None:
    """A new plan that seeks into a late epoch shuffles only the bucket of that batch."""
    plan = BatchPlan(*corpus(100_000), PlanConfig(temperature=0.5), world_size=8)
    plan.take(Position(70, plan.num_batches(70) // 2))
    assert sum(len(bucket.rows) for bucket in plan._epoch(70)._kept.values()) < 20_000
