from pathlib import Path
from xml.etree import ElementTree

import pytest

from maya.score.curve import HEIGHT, WIDTH, chart, read_metrics, series, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 100, [0, 50, 100]),
        (0, 87, [0, 50, 100]),
        (0, 0, [0, 0.5, 1]),
        (-3, 4, [-4, -2, 0, 2, 4]),
        (0, 0.0003, [0, 0.0001, 0.0002, 0.0003]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_lines_stay_inside_the_chart() -> None:
    svg = chart({"a": [(x, 100.0 - x) for x in range(2000)], "b": [(5.0, -7.0)]}, title="loss & more")
    root = ElementTree.fromstring(svg)
    lines = root.findall("polyline")
    assert len(lines) == 2 and len(root.findall("circle")) == 1  # a single point would be invisible as a line
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 < x < WIDTH and 0 < y < HEIGHT
    labels = [t.text for t in root.findall("text")]
    assert "loss & more" in labels and "a" in labels and "b" in labels


def test_no_points_no_chart() -> None:
    assert chart({"a": []}, title="x") == ""


def test_thinning_keeps_the_mean() -> None:
    # A spike of one step must not vanish by falling between two drawn points.
    points = [(float(i), 0.0) for i in range(4000)]
    points[1234] = (1234.0, 1000.0)
    svg = chart({"a": points}, title="x")
    heights = [
        float(p.split(",")[1]) for p in ElementTree.fromstring(svg).find("polyline").attrib["points"].split()
    ]
    assert min(heights) < max(heights)


def test_metrics_of_an_interrupted_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"kind": "train", "step": 1, "loss": 2.0}\n{"kind": "train", "step": 2, "loss": NaN}\n'
        '{"kind": "valid", "step": 2, "wer": 0.5}\n{"kind": "train", "step": 3, "lo'
    )
    rows = read_metrics(path)
    assert len(rows) == 3
    assert series(rows, "train", "loss") == [(1.0, 2.0)]
    assert series(rows, "valid", "wer") == [(2.0, 0.5)]
    assert read_metrics(tmp_path / "absent.jsonl") == []
