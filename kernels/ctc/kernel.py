"""Launches of the CTC lattice in Triton. One program walks the frames of one utterance; no atomics."""

import torch
import triton
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.ctc.jit import ctc_alpha_kernel, ctc_mass_kernel
from maya.kernels.host import to_device
from maya.kernels.triton_common import launching_on

MAX_COLUMNS = 1024  # U + 1: two fp64 vectors of it stay in registers
STAGES = 4  # of prefetching


def ctc_lattice_triton(
    scores: Tensor, transcripts: Transcripts, *, with_posteriors: bool
) -> tuple[Tensor, Tensor | None]:
    """Log probability of each transcript (B,), and the posteriors (B, S, U+1) of blank and labels, fp32.

    scores: (B, S, U+1) fp32 log probabilities, at column 0 of blank and at column u of label u. The columns
    of the posteriors are the same; they are 0 beyond a row's frames and labels, and in rows without a path.
    """
    scores = scores.contiguous()
    batch, size, width = scores.shape
    targets = transcripts.targets
    repeats = torch.zeros(batch, width, dtype=torch.uint8, device=scores.device)
    repeats[:, 2:] = targets[:, 1:] == targets[:, :-1]
    lens = torch.tensor(list(zip(transcripts.frames, transcripts.labels, strict=True)), dtype=torch.int32)
    sizes = to_device(lens.view(batch, 2), scores.device)
    log_prob = scores.new_empty(batch, 2)  # beside it, the share of paths that end in a blank
    shares = scores.new_empty(batch, size, 3, width)
    columns = max(32, triton.next_power_of_2(width))
    constants = {"BU": columns, "STAGES": STAGES}
    # As the lattices' sweeps: a column a lane, two where a step is short.
    alpha_warps, mass_warps = (max(1, min(16, columns // n)) for n in (32, 64))
    with launching_on(scores):
        if batch:
            ctc_alpha_kernel[(batch,)](
                scores, repeats, sizes, log_prob, shares, size, width, num_warps=alpha_warps, **constants
            )
        if not with_posteriors:
            return log_prob[:, 0], None
        mass = torch.zeros_like(scores)
        if batch:
            ctc_mass_kernel[(batch,)](
                sizes, log_prob, shares, mass, size, width, num_warps=mass_warps, **constants
            )
    return log_prob[:, 0], mass
