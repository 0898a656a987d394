"""mypy over maya, kernels, recipes, egs and tools: `python tools/typecheck.py [FILE ...]`.

kernels/ and recipes/ are installed as `maya.kernels` and `maya.recipes`, which mypy cannot see from the
folders alone. It is shown a tree of links in .mypy_cache, laid out as the installation is; what it says about
files there is translated back.
"""

import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
VIEW = TOP / ".mypy_cache" / "view"
MAPPED = ("kernels", "recipes")  # folders at the top that lie inside the package
BESIDE = ("egs", "tools")


def build_view() -> None:
    """Make the tree of links anew, so that a removed module leaves no trace."""
    package = VIEW / "maya"
    package.mkdir(parents=True, exist_ok=True)
    for old in (*package.iterdir(), *(p for p in VIEW.iterdir() if p != package)):
        old.unlink()
    for child in (TOP / "maya").iterdir():
        if child.name != "__pycache__":
            (package / child.name).symlink_to(child)
    for name in MAPPED:
        (package / name).symlink_to(TOP / name)
    for name in BESIDE:
        (VIEW / name).symlink_to(TOP / name)


def to_view(path: Path) -> str:
    """Where a file of the checkout appears in the view."""
    inside = path.resolve().relative_to(TOP)
    return str(Path("maya") / inside) if inside.parts[0] in MAPPED else str(inside)


def from_view(line: str) -> str:
    """A line of mypy's output with the paths of the checkout."""
    return re.sub(rf"\bmaya/({'|'.join(MAPPED)})/", r"\1/", line)


def in_scope(path: Path) -> bool:
    return path.suffix == ".py" and path.resolve().relative_to(TOP).parts[0] in ("maya", *MAPPED, *BESIDE)


def main(arguments: list[str]) -> int:
    named = [Path(a) for a in arguments]
    targets = [to_view(p) for p in named if in_scope(p)] if named else ["maya", *BESIDE]
    if not targets:
        return 0
    build_view()
    config = ["--config-file", str(TOP / "pyproject.toml"), "--cache-dir", str(TOP / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *config, *targets]
    done = subprocess.run(command, cwd=VIEW, stdout=subprocess.PIPE, text=True)
    print(from_view(done.stdout), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
