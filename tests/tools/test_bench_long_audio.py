"""The benchmark of long recordings runs, and assigns errors to borders."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maya.decode.hypothesis import Hypothesis
from tests.decode.test_buffered import speech, untrained
from tools.bench import long_audio as bench
from tools.bench import not_speech


def test_words_are_right_or_wrong_alone_and_in_the_recording() -> None:
    """Utterances of two words begin at 0, 2 and 4 s; a border at 3.5 s is near the words of the second."""
    tokenizer: Any = SimpleNamespace(decode=lambda tokens: " ".join(map(str, tokens)))
    hyp = Hypothesis(
        tokens=[1, 2, 3, 9, 5, 6], frames=[0, 10, 20, 30, 40, 50], durations=[1] * 6, frame_seconds=0.1
    )
    alone = [Hypothesis(text=text) for text in ("1 2", "3 4", "5 7 8")]
    splice = bench.Splice(["1 2", "3 4", "5 6"], alone, [0.0, 2.0, 4.0, 6.0])
    table = bench.at_borders(splice, hyp, [3.5], tokenizer)
    lost, won = "right alone, wrong here", "wrong alone, right here"
    near, elsewhere = table["near"], table["elsewhere"]
    assert table["borders"] == 1 and (near["words"], elsewhere["words"]) == (2, 4)
    assert (near[lost], near["of these deleted"], near[won], near["p"]) == (1, 0, 0, 1.0)
    assert (elsewhere[lost], elsewhere[won], elsewhere["inserted alone"], elsewhere["inserted here"]) == (
        0,
        1,
        1,
        0,
    )


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    utterances = [(speech(n), "a b") for n in (1, 2)]
    monkeypatch.setattr(bench.maya, "load", lambda run: untrained())
    monkeypatch.setattr(bench, "utterances_of", lambda args: utterances)
    monkeypatch.setattr(bench, "NOT_SPEECH", {"fan": not_speech.fan})
    options = ["--run", "x", "--window", "3", "--overlap", "1", "--detector", "energy", "--language", "en"]
    bench.main(["spliced", "--minutes", "0.3", *options])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["minutes"] >= 0.3 and set(result["strategies"]) == {"vad", "overlap", "buffered"}
    assert result["strategies"]["overlap"]["borders"] > 5
    assert result["strategies"]["buffered"]["peak MB of each tenth"]


def test_sounds_are_the_same_each_time() -> None:
    for name, sound in not_speech.NOT_SPEECH.items():
        samples = sound(2.0)
        assert len(samples) == 2 * not_speech.RATE and samples.dtype == "float32", name
        assert torch.equal(torch.from_numpy(samples), torch.from_numpy(sound(2.0))) and abs(samples).max() < 1
    assert Path(not_speech.__file__).name == "not_speech.py"
