"""The comparison with fast_rnnt: equal results, and a clear message if it is missing."""

import json
import sys

import pytest

from maya.errors import MayaError
from tools.bench import pruned as bench_pruned

SMALL = ["--batch", "2", "--frames", "12", "--labels", "4", "--vocab", "9", "--range", "3", "--rounds", "1"]


def test_comparison_of_maya_with_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_pruned, "theirs", bench_pruned.ours)
    bench_pruned.main(SMALL)
    report = json.loads(capsys.readouterr().out)
    assert report["ranges equal"]
    for kind in ("simple losses", "pruned losses"):
        assert report[kind][0] == report[kind][1] > 0
    for kind in ("pruned", "whole"):
        assert report[kind]["ratio"] == report[kind]["fast_rnnt"] / report[kind]["maya"]


def test_missing_fast_rnnt_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_rnnt", None)
    with pytest.raises(MayaError, match="fast_rnnt is not installed"):
        bench_pruned.main(SMALL)
