"""What two runs were configured differently: `python -m tools.diff_config RUN_A RUN_B`.

Each is a run folder or a config.json. Prints one line for each field that differs; like diff, the exit status
is 0 when nothing differs, 1 when something does, 2 on an error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from maya.errors import MayaError

ABSENT = "(absent)"


def differences(left: Any, right: Any, name: str = "") -> list[tuple[str, str, str]]:
    """(dotted name, value left, value right), as JSON text, of every leaf that differs, in order of name."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted(left.keys() | right.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in left:
                found.append((inner, ABSENT, _text(right[key])))
            elif key not in right:
                found.append((inner, _text(left[key]), ABSENT))
            else:
                found += differences(left[key], right[key], inner)
        return found
    # As text, so that 1 and 1.0, or 1 and true, count as different.
    return [] if _text(left) == _text(right) else [(name, _text(left), _text(right))]


def read_config(path: Path) -> Any:
    """The configuration in a run folder or a JSON file."""
    file = path / "config.json" if path.is_dir() else path
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MayaError(f"{file} does not exist: give a run folder or its config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MayaError(f"{file} is not JSON ({error}): give a run folder or its config.json") from None


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m tools.diff_config",
        description="Show what two runs were configured differently.",
    )
    parser.add_argument("left", type=Path, help="a run folder or config.json")
    parser.add_argument("right", type=Path, help="another")
    options = parser.parse_args(arguments)
    try:
        found = differences(read_config(options.left), read_config(options.right))
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = max((len(name) for name, _, _ in found), default=0)
    for name, left, right in found:
        print(f"{name:<{width}}  {left} -> {right}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
