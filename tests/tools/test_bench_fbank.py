import pytest
import torch

from tools import bench_fbank


def test_it_compares_all_three(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("kaldi_native_fbank")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    bench_fbank.main(["--utterances", "2", "--seconds", "0.5", "--repeats", "1"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("torchaudio: differs by") and float(out[0].split()[3]) < 1e-5
    assert [line.split()[0] for line in out[3:]] == ["maya", "torchaudio", "kaldi_native_fbank"]
    assert out[3].endswith("1.00x maya's time")
