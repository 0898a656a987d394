"""TDT loss on CPU: this against the reference. `python -m maya.kernels.tdt.bench`."""

import torch

from maya.kernels.bench_table import header, time_loss
from maya.kernels.lattice import Arcs, forward_backward
from maya.kernels.tdt import tdt_loss


def main() -> None:
    batch, frames, labels, vocab = 16, 60, 20, 500
    torch.manual_seed(0)
    header(batch, frames, labels, vocab)
    tokens = torch.randn(batch, frames, labels + 1, vocab, requires_grad=True)
    durations = torch.randn(batch, frames, labels + 1, 5, requires_grad=True)
    targets = torch.randint(vocab - 1, (batch, labels))
    lens = torch.full((batch,), frames), torch.full((batch,), labels)

    def loss(backend: str, rows: int = batch) -> torch.Tensor:
        of_rows = (x[:rows] for x in (tokens, durations, targets, *lens))
        return tdt_loss(*of_rows, durations=range(5), blank=vocab - 1, backend=backend)

    def lattice() -> torch.Tensor:
        """The sweep over cells alone, posteriors included; attached to a leaf to be timed alike."""
        cells = durations.detach()[..., 0].double()
        arcs = Arcs(blank={d: cells for d in range(1, 5)}, label={d: cells for d in range(5)})
        result = forward_backward(arcs, [frames] * batch, [labels] * batch, with_posteriors=True)
        return result.log_prob + durations[..., :0].sum()

    time_loss("torch", lambda: loss("torch"), [tokens, durations], 10)
    time_loss("of which the lattice", lattice, [durations], 10)
    time_loss("reference, one row", lambda: loss("reference", 1), [tokens, durations], 1)


if __name__ == "__main__":
    main()
