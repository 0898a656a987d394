from xml.etree import ElementTree

import pytest

from maya.pages import HEIGHT, WIDTH, html_table, line_chart, ticks


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
    assert ticks(low, high, 4, outside=True) == pytest.approx(expected)


def test_lines_stay_inside_the_chart() -> None:
    svg = line_chart({"a": [(x, 100.0 - x) for x in range(2000)], "b": [(5.0, -7.0)]}, title="loss & more")
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
    assert line_chart({"a": []}, title="x") == ""


def test_thinning_keeps_the_mean() -> None:
    # A spike of one step must not vanish by falling between two drawn points.
    points = [(float(i), 0.0) for i in range(4000)]
    points[1234] = (1234.0, 1000.0)
    svg = line_chart({"a": points}, title="x")
    heights = [
        float(p.split(",")[1]) for p in ElementTree.fromstring(svg).find("polyline").attrib["points"].split()
    ]
    assert min(heights) < max(heights)


def test_ticks_inside_an_axis() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(-61, -18) == [-60, -50, -40, -30, -20]
    assert ticks(3, 3) == [3]


def test_tables_escape_text_and_group_thousands() -> None:
    table = html_table(["name", "n"], [["<b>", 1234], ["none", 0]], [["all", "x"]], text_columns=2)
    assert '<td class="left">&lt;b&gt;</td><td class="left">1,234</td>' in table
    assert '<tr class="total"><td class="left">all</td>' in table
    assert '<td class="none">0</td>' in html_table(["n", "m"], [["none", 0]])
