"""Keep what a GPU run left: `python -m tools.gpu_results FOLDER [--out docs/benchmarks]`.

FOLDER is the output of tools/gpu_run.sh. Its bench.json becomes NAME.json and NAME.md, and its profile
NAME-profile.txt, where NAME is that of the GPU. Results of earlier runs of other cases stay.
"""

import argparse
import shutil
import sys
from pathlib import Path

from maya.kernels.bench import report
from maya.kernels.bench.__main__ import slug, title


def keep(folder: Path, out: Path) -> Path:
    """Write the pages of the run in `folder`; returns the path of its Markdown. Raises FileNotFoundError."""
    runs = report.read(folder / "bench.json")
    if not runs:
        raise FileNotFoundError(f"{folder} holds no bench.json of tools/gpu_run.sh")
    stem = out / slug(runs[0].machine["gpu"] or runs[0].machine["cpu"])
    kept = report.read(stem.with_suffix(".json"))
    for run in runs:
        kept = report.add(kept, run)
    report.write(kept, stem, title(runs[-1]))
    if (folder / "profile.txt").exists():
        shutil.copy(folder / "profile.txt", out / f"{stem.name}-profile.txt")
    return stem.with_suffix(".md")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args(arguments)
    try:
        print(f"written: {keep(options.folder, options.out)}")
    except FileNotFoundError as error:
        print(f"gpu_results: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
