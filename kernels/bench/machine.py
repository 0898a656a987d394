"""Facts about the machine that a reader of measured figures needs."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """The facts about this machine that a reader of the figures needs."""
    top = Path(__file__).resolve().parents[2]
    cuda = torch.cuda.is_available()
    changes = _git(top, "status", "--porcelain", "--untracked-files=no", "--", "kernels")
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "torchaudio": version_of("torchaudio"),
        "commit": _git(top, "rev-parse", "HEAD") or os.environ.get("MAYA_COMMIT"),  # of a copy without .git
        "uncommitted_changes": bool(changes),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # of the last minute
    }


def cpu_model() -> str:
    """The name that the processor gives itself, where the system tells it, or its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """The installed version, or None where the package is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(top: Path, *arguments: str) -> str | None:
    """The output of git, or None if the files are not a checkout."""
    try:
        done = subprocess.run(["git", "-C", str(top), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
