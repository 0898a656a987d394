from pathlib import Path

import pytest

from tools import draw_fused


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FRAMES", 30), ("LABELS", 6), ("HIDDEN", 32), ("VOCAB", 64)):
        monkeypatch.setattr(draw_fused, name, value)


def test_every_path_has_as_many_arcs() -> None:
    for kind in ("uniform", "trained"):
        cells = draw_fused.occupancy(kind)
        assert cells.shape == (30, 7)
        assert abs(float(cells.sum()) - 36) < 1e-3


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_fused.main([str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
