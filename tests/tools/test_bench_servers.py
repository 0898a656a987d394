"""The comparison with sherpa-onnx' server: its table and picture, and its soak (measuring is by hand)."""

from pathlib import Path
from typing import Any

import pytest

from tools.bench.live_cost import pieces
from tools.bench.load import joined
from tools.bench.servers import draw, most_streams, random_config, summary


def rounds(*p95: float, failed: int = 0) -> list[dict[str, Any]]:
    about = {"partial": [0.1], "cpu": 0.5, "cost_ms": 12.0, "mb": 300.0, "failed": failed}
    return [{"final": [seconds], **about} for seconds in p95]


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    results = [
        {"server": "maya", "streams": 8, "rounds": rounds(0.1, 0.2, 0.9)},
        {"server": "maya", "streams": 16, "rounds": rounds(0.4, 0.6, 0.7)},
        {"server": "other", "streams": 8, "rounds": rounds(0.1, failed=1)},
    ]
    assert most_streams(results, "maya") == 8 and most_streams(results, "other") == 0
    line = summary("small", "maya", 8, results[0]["rounds"])
    assert line == ["small", "maya", "8", "200 (100 to 900)", "200", "100", "0.50", "12.0", "300", "0"]
    pytest.importorskip("matplotlib")
    draw({"small": results}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_recordings_and_models(shared: Path) -> None:
    audio = joined(shared / "corpora" / "digits", 10)
    assert 1 < len(audio) <= 20 and all(len(own) >= 160_000 for own in audio)
    moments = pieces(audio, 3)
    assert len(moments) == 100 and {len(part) for moment in moments for part in moment} == {1600}
    assert random_config("zipformer-s").encoder.kind == "zipformer"
    with pytest.raises(SystemExit, match="the names are"):
        random_config("large")
