"""The differences between the configurations of two runs.

One line for each field that differs. As with diff, the exit status is 0 if nothing differs, 1 if something
does, 2 for an error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from maya.errors import MayaError

ABSENT = "(absent)"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("first", type=Path, help="a run folder or a config.json")
    p.add_argument("second", type=Path, help="another")


def run(args: argparse.Namespace) -> int:
    try:
        rows = differences(read_config(args.first), read_config(args.second))
    except MayaError as error:
        print(f"maya diff: {error}", file=sys.stderr)
        return 2
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, first, second in rows:
        print(f"{name:<{width}}  {first} -> {second}")
    return 1 if rows else 0


def differences(first: Any, second: Any, name: str = "") -> list[tuple[str, str, str]]:
    """(dotted name, first value, second value), as JSON text, of each leaf that differs, sorted by name."""
    if isinstance(first, dict) and isinstance(second, dict):
        rows = []
        for key in sorted(first.keys() | second.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in first:
                rows.append((inner, ABSENT, _text(second[key])))
            elif key not in second:
                rows.append((inner, _text(first[key]), ABSENT))
            else:
                rows += differences(first[key], second[key], inner)
        return rows
    # As text, so that 1 and 1.0, or 1 and true, count as different.
    return [] if _text(first) == _text(second) else [(name, _text(first), _text(second))]


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
