from pathlib import Path

import pytest

from tools import draw_fused


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FRAMES", 30), ("LABELS", 6), ("HIDDEN", 32), ("VOCAB", 64)):
        monkeypatch.setattr(draw_fused, name, value)


def test_all_paths_have_the_same_number_of_arcs() -> None:
    for kind in ("uniform", "sharp"):
        cells = draw_fused.occupancy(kind)
        assert cells.shape == (30, 7)
        assert abs(float(cells.sum()) - 36) < 1e-3


def test_figure_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_fused.main([str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
