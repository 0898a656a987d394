from pathlib import Path

import pytest

from tools import typecheck


def test_paths_round_trip(repo: Path) -> None:
    for name, seen in (
        ("kernels/rnnt/kernel.py", "maya/kernels/rnnt/kernel.py"),
        ("recipes/cli.py", "maya/recipes/cli.py"),
        ("maya/text/normalize.py", "maya/text/normalize.py"),
        ("tools/typecheck.py", "tools/typecheck.py"),
    ):
        assert typecheck.to_view(repo / name) == seen
        assert typecheck.from_view(f"{seen}:3: error: x") == f"{name}:3: error: x"
    assert typecheck.in_scope(repo / "kernels" / "a.py")
    assert not typecheck.in_scope(repo / "tests" / "a.py") and not typecheck.in_scope(repo / "Makefile")


def test_view_has_the_installed_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("maya/text/a.py", "kernels/k.py", "recipes/r.py", "egs/e.py", "tools/t.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(typecheck, "TOP", tmp_path)
    monkeypatch.setattr(typecheck, "VIEW", tmp_path / "cache" / "view")
    typecheck.build_view()
    (tmp_path / "maya" / "text").rename(tmp_path / "maya" / "words")
    typecheck.build_view()  # a second time, over the links of the first
    paths = {str(p.relative_to(typecheck.VIEW)) for p in typecheck.VIEW.rglob("*")}
    assert {"maya/words", "maya/kernels", "maya/recipes", "egs", "tools"} <= paths
    assert "maya/text" not in paths and (typecheck.VIEW / "maya" / "recipes" / "r.py").is_file()
