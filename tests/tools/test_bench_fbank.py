import pytest
import torch

from maya.kernels.bench import peers
from tools.bench import fbank as bench_fbank


def test_compares_all_three_implementations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("kaldi_native_fbank")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    bench_fbank.main(["--utterances", "2", "--seconds", "0.5", "--repeats", "1"])
    out = capsys.readouterr().out.splitlines()
    names = ["torchaudio", "kaldi_native_fbank"]
    if out[0].startswith("torchaudio: left out, torchaudio "):  # it does not load beside every torch
        assert peers.torchaudio("compliance.kaldi")[1] == out.pop(0).removeprefix("torchaudio: left out, ")
        names.remove("torchaudio")
    for name, line in zip(names, out, strict=False):
        assert line.startswith(f"{name}: differs by") and float(line.split()[3]) < 1e-5
    times = out[len(names) + 1 :]
    assert [line.split()[0] for line in times] == ["maya", *names]
    assert times[0].endswith("1.00x maya's time")
