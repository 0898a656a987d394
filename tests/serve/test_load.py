"""Many clients in real time: those inside are as fast as before while others are refused."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.serve.test_command import saved, serving
from tests.serve.test_session import RATE, recording
from tools.bench.load import ClientResult, client

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

SLOTS = 4
pytestmark = pytest.mark.slow


def paced(url: str, audio: np.ndarray) -> list[ClientResult]:
    """As many clients as there are slots, each at the speed of speech."""

    async def together() -> list[ClientResult]:
        return await asyncio.gather(*(client(url, "native", audio, 100, 0.1 * n) for n in range(SLOTS)))

    return asyncio.run(together())


# In a process of the lowest priority: on a real network the clients take none of the server's processor.
STORM = """
import collections, httpx, json, os, sys, time
from websockets.sync.client import connect
os.nice(19)
address, seconds = sys.argv[1], float(sys.argv[2])
seen, client, end = collections.Counter(), httpx.Client(), time.monotonic() + seconds
while time.monotonic() < end:
    with connect(f"{address}/v1/stream") as refused:
        kind = json.loads(refused.recv(timeout=20))["type"]
    seen[str(refused.close_code if kind == "error" else kind)] += 1
    upload = address.replace("ws", "http", 1) + "/v1/audio/transcriptions"
    answer = client.post(upload, files={"file": b"x"}, timeout=20)
    seen[str(answer.status_code)] += 1
    time.sleep(0.01)
print(json.dumps(seen))
"""


def test_overload_is_refused_and_does_not_slow_those_inside(tmp_path: Path) -> None:
    """Rounds with and without a storm of clients that are refused, in turns; medians of the time from the end
    of the audio to the last text."""
    audio = recording(0).clip(-1, 1).astype(np.float32)
    lags: dict[bool, list[float]] = {False: [], True: []}
    seen: Counter[str] = Counter()
    with serving(saved(tmp_path / "model.pt"), "--slots", str(SLOTS)) as (_, address):
        url, seconds = f"{address}/v1/stream", len(audio) / RATE
        (expected,) = {result.text for result in paced(url, audio)}
        for _ in range(3):
            for stormy in (False, True):
                begin = f"sleep 0.6; exec {sys.executable} -c '{STORM}' {address} {seconds}"
                process = subprocess.Popen(
                    ["sh", "-c", begin if stormy else "echo {}"], stdout=subprocess.PIPE
                )
                results = paced(url, audio)
                seen.update(json.loads(process.communicate(timeout=60)[0]))
                assert [r.failure for r in results] == [""] * SLOTS
                assert {r.text for r in results} == {expected} and expected
                lags[stormy] += [r.final for r in results if r.final is not None]
    assert {"1013", "400"} <= set(seen) and seen["1013"] > 20
    quiet, loud = (float(np.median(lags[stormy])) for stormy in (False, True))
    print(f"last text after {1000 * quiet:.0f} ms, in the storm of {seen} {1000 * loud:.0f} ms")
    assert loud < 1.5 * quiet + 0.05
