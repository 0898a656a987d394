"""Names of the files of sharded corpora: ranges, and the numbers of shards."""

import re
from collections.abc import Sequence
from pathlib import Path

from maya.errors import MayaError

_RANGE = re.compile(r"(?:_OP_|\{)(\d+)\.\.(\d+)(?:_CL_|\})")
_MOST = 1_000_000  # files that one pattern may stand for


def expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order: audio__OP_0..3_CL_.tar or audio_{0..3}.tar are four.
    Raises MayaError for a range that runs backwards or has no end in sight."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise MayaError(f"the pattern {pattern!r} goes from {first} to {last}; give a range of files")
    width = len(match[1])
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for i in range(first, last + 1) for name in expanded(f"{before}{i:0{width}d}{after}")]


def by_number(paths: Sequence[Path]) -> dict[int, Path]:
    """Files by the last number in their names; MayaError where two have the same."""
    files: dict[int, Path] = {}
    for path in paths:
        if numbers := re.findall(r"\d+", path.stem):
            number = int(numbers[-1])
            if number in files:
                raise MayaError(
                    f"{path} and {files[number]} are both number {number}; keep the tars of one data set in "
                    "a folder of their own"
                )
            files[number] = path
    return files
