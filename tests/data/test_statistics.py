import json

import numpy as np
import pytest

from maya.audio.sound import Sound
from maya.data.measure.entry import Entry
from maya.data.report.statistics import EDGES, Histogram, Statistics, histogram
from tests.data.making import make_entry

SOUND = Sound(level=-20.5, snr=30.0, clipped=0.0, dc_offset=0.0, high_band=-40.0, lead=0.2, trail=0.7)


def entry(
    id: str, text: str = "एक दो", seconds: float = 2.0, language: str = "hi", speaker: str = "s",
    sound: Sound | None = SOUND,
) -> Entry:  # fmt: skip
    """A measured utterance, with these facts about its sound."""
    measured = {name: getattr(sound, name) for name in Sound.__dataclass_fields__} if sound else {}
    return make_entry(id, text, seconds, language=language, speaker=speaker, **measured)


def test_quantiles_are_close_to_those_of_the_values() -> None:
    values = np.random.default_rng(0).gamma(3.0, 1.5, 20_000)
    filled = Histogram(EDGES["seconds"])
    for value in values:
        filled.add(float(value))
    assert filled.total == len(values)
    for share in (0.05, 0.25, 0.5, 0.95):
        assert filled.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.1), share


def test_values_outside_the_edges_are_counted() -> None:
    filled = Histogram((0.0, 1.0, 2.0))
    for value in (-5.0, 0.0, 1.0, 2.0, 99.0):
        filled.add(value)
    assert filled.counts == [2, 3]
    assert Histogram((0.0, 1.0)).quantile(0.5) == 0.0


def test_statistics_of_a_language() -> None:
    statistics = Statistics()
    statistics.add(entry("a", "एक दो", 2.0), "train")
    statistics.add(entry("b", "एक दो", 3.0, speaker="t"), "train")
    statistics.add(entry("c", "एक x", 1.0, speaker="c", sound=None), "dev")  # without a speaker, not decoded
    statistics.add(entry("d", "one", 1.0, "en"), "test")
    summary = statistics.summary()
    assert list(summary) == ["en", "hi"]
    hindi = summary["hi"]
    assert (hindi["utterances"], hindi["texts"], hindi["speakers"]) == (3, 2, 3)
    assert hindi["hours"] == pytest.approx(6 / 3600) and hindi["longest_seconds"] == 3.0
    assert hindi["characters"] == 5 + 5 + 4 and hindi["alphabet"] == len(set("एक दोx"))
    assert hindi["parts"]["train"] == {"utterances": 2, "hours": pytest.approx(5 / 3600)}
    assert hindi["foreign_script"] == 0 and summary["en"]["parts"]["test"]["utterances"] == 1
    spreads = statistics.spreads()["hi"]
    assert spreads["speakers"] == {
        "named": 2, "unnamed_utterances": 1, "median_seconds": 2.5, "largest_seconds": 3.0,
    }  # fmt: skip
    assert ["x", 1, "c"] in spreads["letters"] and ["द", 2, "a"] in spreads["letters"]
    counts = [count for _, count, _ in spreads["letters"]]
    assert counts == sorted(counts, reverse=True)
    assert histogram(spreads, "seconds").total == 3  # type: ignore[union-attr]
    assert histogram(spreads, "level").total == 2  # type: ignore[union-attr]
    assert histogram(spreads, "silence").quantile(0.5) == pytest.approx(0.7, abs=0.05)  # type: ignore[union-attr]
    assert json.loads(json.dumps(spreads)) == spreads


def test_unmeasured_quantities_have_no_histogram() -> None:
    statistics = Statistics()
    statistics.add(entry("a", sound=None), "train")
    assert histogram(statistics.spreads()["hi"], "level") is None


def test_statistics_do_not_depend_on_order() -> None:
    entries = [entry(f"u{i}", f"एक {'दो' * (i % 5)}", 0.5 + i % 7, speaker=f"s{i % 3}") for i in range(40)]
    forward, backward = Statistics(), Statistics()
    for utterance in entries:
        forward.add(utterance, "train")
    for utterance in reversed(entries):
        backward.add(utterance, "train")
    assert forward.summary() == backward.summary()
