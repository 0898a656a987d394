"""The benchmark of encoders runs and reports its measurements."""

import json

import pytest
import torch

from maya.encoders import FastConformer
from tools.bench import encoder as bench_encoder


def test_comparison_of_maya_with_itself(tmp_path, capsys, monkeypatch):
    def twin(ours):
        other = FastConformer(ours.cfg)
        other.load_state_dict(ours.state_dict())
        return other

    monkeypatch.setitem(bench_encoder.MAKERS, "hf", (twin, bench_encoder.run_ours))
    out = tmp_path / "encoder.json"
    small = ["--layers", "1", "--width", "32", "--batch", "2", "--seconds", "0.5", "1", "--rounds", "1"]
    bench_encoder.main(["compare", *small, "--threads", "1", "--out", str(out)])
    result = json.loads(out.read_text())["compare"]
    assert result["largest difference"] < 1e-4
    assert set(result["hf over maya"]) == set(bench_encoder.KINDS)
    assert "compare --layers 1" in result["with"]["command"] and "round 1" in capsys.readouterr().out
    bench_encoder.main(["attention", "--frames", "40", "--rounds", "1", "--threads", "1", "--out", str(out)])
    assert set(json.loads(out.read_text())) == {"compare", "attention"}


def test_long_audio_runs_in_a_subprocess(capsys):
    small = ["--layers", "1", "--width", "32", "--context", "8", "8", "--threads", "1"]
    bench_encoder.main(["long", "--minutes", "0.1", "0.2", *small])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["features"] for row in rows] == [0.192, 0.384]
    assert rows[1]["frames"] == 150 and rows[1]["output"] == 150 * 32 * 4 / 1e6
    assert all(row["peak"] > row["rest"] > 0 for row in rows)


def test_encoders_with_different_output_are_refused():
    takers = {
        name: (FastConformer(bench_encoder.no_dropout(d_model=32, n_layers=1)), bench_encoder.run_ours)
        for name in ("maya", "hf")
    }
    with pytest.raises(SystemExit, match="do not compute the same"):
        bench_encoder.agreement(takers, torch.randn(1, 80, 80), torch.tensor([80]))


def test_every_parameter_maps_to_hugging_face():
    state = FastConformer(bench_encoder.no_dropout(d_model=32, n_layers=1)).state_dict()
    names = bench_encoder.hugging_face_names(state)
    assert len(names) == len(state)
    assert {"subsampling.layers.0.weight", "subsampling.linear.bias"} <= set(names)
    assert {"layers.0.self_attn.relative_k_proj.weight", "layers.0.self_attn.bias_u"} <= set(names)
    assert "layers.0.conv.norm.running_mean" in names and not any("linear_q" in n for n in names)
