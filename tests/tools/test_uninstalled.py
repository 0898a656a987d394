import subprocess
import sys
from pathlib import Path

CODE = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]  # as if maya were not installed
import maya.kernels.bench.measure, maya.recipes
print(maya.kernels.bench.measure.__file__, maya.recipes.__file__)
"""


def test_kernels_and_recipes_are_found_without_an_installation(repo: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": f"{repo / 'tools' / 'uninstalled'}:{repo}"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    places = [repo / "kernels" / "bench" / "measure.py", repo / "recipes" / "__init__.py"]
    assert done.stdout.split() == [str(place) for place in places], done.stderr
