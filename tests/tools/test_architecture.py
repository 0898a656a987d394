"""docs/architecture.md lists every file of the library."""

from pathlib import Path

from tools.architecture import file_list, main


def test_page_is_current() -> None:
    assert main(["--check"]) == 0, "run python -m tools.architecture"


def test_every_file_is_listed(repo: Path) -> None:
    listed = file_list(repo)
    files = [p.relative_to(repo) for p in (repo / "maya").rglob("*.py") if p.name != "__init__.py"]
    assert [str(path) for path in files if f"(../{path})" not in listed] == []
