import logging

import pytest

import maya.data.measure.progress as progress_module
from maya.data.measure.progress import Progress, duration


def test_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    caplog.set_level(logging.INFO, "maya")
    progress = Progress("checked", 1000, "utterances")
    progress.advance(300, fresh=False)
    now = 105.0
    progress.advance(100)
    assert caplog.messages == [], "no more often than every ten seconds"
    now = 112.0
    progress.advance(140)
    now = 116.0
    progress.advance(460)
    progress.end()
    assert caplog.messages == [
        "checked 540 of 1000 utterances, 300 of them in an earlier run, 20 a second, 23 s left",
        "checked 1000 of 1000 utterances, 300 of them in an earlier run, 44 a second",
    ]


def test_what_is_quick_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "maya")
    progress = Progress("checked", 3, "utterances")
    progress.advance(3)
    progress.end()
    assert caplog.messages == []


@pytest.mark.parametrize(("seconds", "said"), [(12.3, "12 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
