"""Makes this checkout importable where nothing can be installed: PYTHONPATH=tools/uninstalled:. python ...

Python imports a module of this name when it starts. Like the installation (setup.py), it finds kernels/ and
recipes/, which lie at the top, as maya.kernels and maya.recipes.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

TOP = Path(__file__).resolve().parents[2]
PLACES = {f"maya.{name}": TOP / name for name in ("kernels", "recipes")}


class Mapped:
    """A finder of these two packages; what lies in them Python finds by itself."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = PLACES.get(name)
        if place is None:
            return None
        inside = [str(place)]
        return importlib.util.spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=inside
        )


sys.meta_path.append(Mapped)
