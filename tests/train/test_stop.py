"""Stop signals, and training after its terminal was closed."""

import errno
import io
import os
import signal
from pathlib import Path

import pytest

from maya.train.runlog import RunLog
from maya.train.stop import INSISTING_SECONDS, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signals(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGHUP)  # a second one changes nothing
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher or a terminal sends these
        signal.sigtimedwait([], 0)
        stop.since -= INSISTING_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)  # the handler runs here at the latest
    assert signal.getsignal(number) == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE])
def test_training_outlives_its_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, os.strerror(number))

    log = RunLog(tmp_path, main=True)
    monkeypatch.setattr("sys.stdout", Closed())
    log.say("nobody reads this")
    log.metrics("train", 1, {"loss": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("loss") == 1
