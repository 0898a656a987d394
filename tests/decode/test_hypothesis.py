"""Fields of a hypothesis that are filled when they are read."""

import threading
import time

from maya.decode.hypothesis import Hypothesis


def test_two_threads_may_be_the_first_to_read_one() -> None:
    calls = []

    def fill(hyp: Hypothesis) -> None:
        calls.append(1)
        time.sleep(0.02)
        hyp.tokens, hyp.text = [1, 2], "ab"

    hyp = Hypothesis.when_read(fill)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(hyp.text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["ab"] * 8 and len(calls) == 1
