"""What setup.py requires, and what this Python has of it. tools/env.sh and `make constraints` call it:

    python tools/requirements.py missing EXTRA      names the requirements of EXTRA that this Python lacks
    python tools/requirements.py constraints KIND   the versions to install into this Python: those of
                                                    constraints.txt (tested), the same with the oldest torch
                                                    (oldest), or any (newest)
    python tools/requirements.py refresh            writes this Python's versions into constraints.txt

It needs the standard library and pip alone, because it runs before anything is installed.
"""

import contextlib
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name
else:
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
        from packaging.utils import canonicalize_name
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
        from pip._vendor.packaging.specifiers import SpecifierSet
        from pip._vendor.packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[1]
# An installation never replaces these in an environment that has them in a version that fits: a torch was
# chosen for its machine (a CPU build, a CUDA version), and it names its Triton and its range of setuptools.
KEPT = {"torch": SpecifierSet(">=2.11"), "triton": SpecifierSet(), "setuptools": SpecifierSet(">=77")}
# The oldest torch that setup.py allows, with the Triton it names and the torchaudio that loads beside it.
OLDEST = {"torch": "2.11.0", "torchaudio": "2.11.0", "triton": "3.6.0"}
# pip and wheel depend on Python alone, and maya is this project itself.
NOT_PINNED = ("pip", "wheel", "maya", "maya-asr", "torchaudio")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def setup_arguments() -> dict[str, Any]:
    """What setup.py passes to setuptools, which need not be installed."""
    arguments: dict[str, Any] = {}
    stand_in = ModuleType("setuptools")
    vars(stand_in).update(setup=arguments.update, find_packages=lambda *_: [])
    real = sys.modules.get("setuptools")
    sys.modules["setuptools"] = stand_in
    try:
        runpy.run_path(str(TOP / "setup.py"))
    finally:
        del sys.modules["setuptools"]
        if real is not None:
            sys.modules["setuptools"] = real
    return arguments


def requirements(extra: str = "") -> list[Requirement]:
    """Those of the package, and those of one extra, on this system."""
    arguments = setup_arguments()
    lines = [*arguments["install_requires"], *(arguments["extras_require"][extra] if extra else [])]
    parsed = [Requirement(line) for line in lines]
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


def installed(name: str) -> str | None:
    """The version of a distribution in this Python."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def missing(extra: str) -> list[str]:
    """The requirements that this Python does not have in a version that fits."""
    lacking = []
    for requirement in requirements(extra):
        version = installed(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            lacking.append(str(requirement))
    return lacking


def pins() -> dict[str, str]:
    """constraints.txt: the canonical name of each distribution, and its version."""
    matches = (PIN.match(line) for line in (TOP / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def _fits(name: str) -> str | None:
    """The version of one of KEPT that this Python has, if it may stay."""
    version = installed(name)
    return version if version is not None and KEPT[name].contains(version, prereleases=True) else None


def constraints(kind: str) -> list[str]:
    """The pins, but for those of KEPT that this Python has in a version that fits: these stay as they are."""
    if kind == "newest":
        return []
    pinned = pins() | (OLDEST if kind == "oldest" else {})
    if kind == "tested" and _fits("torch"):
        pinned |= {name: version for name in KEPT if (version := _fits(name))}
    return [f"{name}=={version}" for name, version in sorted(pinned.items())]


def freeze() -> list[str]:
    """The versions in this Python without local parts such as +cpu: any build of a version will do."""
    versions = {
        canonicalize_name(d.metadata["Name"]): d.version.partition("+")[0]
        for d in importlib.metadata.distributions()
    }
    return [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in NOT_PINNED]


def refresh() -> int:
    """Write constraints.txt anew below its comment, without a CUDA build's packages: torch pins them."""
    path = TOP / "constraints.txt"
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    lines = [line for line in freeze() if not line.startswith(("nvidia-", "cuda-"))]
    path.write_text("\n".join([*comment, *lines]) + "\n")
    print(f"{path}: {len(lines)} versions")
    return 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["missing", extra]:
            lacking = missing(extra)
            print(", ".join(lacking))
            return bool(lacking)
        case ["constraints", ("tested" | "oldest" | "newest") as kind]:
            lines = constraints(kind)
        case ["refresh"]:
            return refresh()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
