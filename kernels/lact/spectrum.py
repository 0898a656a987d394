"""Singular values of Gaussian matrices after Newton-Schulz: `python -m maya.kernels.lact.spectrum`.

Prints a table in Markdown with the smallest, the first percentile, the median and the largest singular value
of 16 matrices, and the share in [0.6, 1.2], for each size and kind.
"""

import torch

from maya.kernels.lact.newton_schulz import COEFFICIENTS, newton_schulz

SIZES = ((32, 32), (64, 64), (128, 128), (192, 192), (512, 512), (96, 192), (192, 384), (256, 512))
MATRICES = 16


def spectrum(rows: int, columns: int, kind: str) -> torch.Tensor:
    """All singular values of 16 matrices, (16 * min(rows, columns),)."""
    make = torch.Generator().manual_seed(0)
    x = newton_schulz(torch.randn(MATRICES, rows, columns, generator=make), kind)
    return torch.linalg.svdvals(x.double()).flatten()


def main() -> None:
    print("| size | coefficients | smallest | 1 % below | median | largest | in [0.6, 1.2] |")
    print("|---|---|---|---|---|---|---|")
    for rows, columns in SIZES:
        for kind in COEFFICIENTS:
            values = spectrum(rows, columns, kind)
            figures = (values.min(), values.quantile(0.01), values.median(), values.max())
            inside = 100 * float(((values >= 0.6) & (values <= 1.2)).double().mean())
            cells = " | ".join(f"{float(x):.3f}" for x in figures)
            print(f"| {rows} × {columns} | {kind} | {cells} | {inside:.1f} % |")


if __name__ == "__main__":
    main()
