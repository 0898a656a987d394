"""The tile of a Triton matrix product."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows and columns of the result, depth of a step; warps and pipeline stages of a program."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def constants(self, rows: str, columns: str, depth: str, precision: str) -> dict[str, str | int]:
        """The keyword arguments of a launch; the kernel's names of the block sizes are given."""
        sizes = {rows: self.rows, columns: self.columns, depth: self.depth}
        return {"PRECISION": precision, **sizes, "num_warps": self.warps, "num_stages": self.stages}
