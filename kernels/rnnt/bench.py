"""RNN-T loss on CPU: this against torchaudio and the reference. `python -m maya.kernels.rnnt.bench`."""

import torch

from maya.kernels.bench_table import header, time_loss
from maya.kernels.rnnt import rnnt_loss


def main() -> None:
    batch, frames, labels, vocab = 16, 60, 20, 500
    torch.manual_seed(0)
    header(batch, frames, labels, vocab)
    logits = torch.randn(batch, frames, labels + 1, vocab, requires_grad=True)
    targets = torch.randint(vocab - 1, (batch, labels), dtype=torch.int32)
    lens = torch.full((batch,), frames, dtype=torch.int32), torch.full((batch,), labels, dtype=torch.int32)
    blank = vocab - 1

    def loss(backend: str, rows: int = batch) -> torch.Tensor:
        of_rows = (x[:rows] for x in (logits, targets, *lens))
        return rnnt_loss(*of_rows, blank=blank, backend=backend)

    time_loss("torch", lambda: loss("torch"), [logits], 10)
    try:
        from torchaudio.functional import rnnt_loss as theirs
    except ImportError:
        print("torchaudio is not installed")
    else:
        time_loss("torchaudio", lambda: theirs(logits, targets, *lens, blank, reduction="none"), [logits], 3)
    time_loss("reference, one row", lambda: loss("reference", 1), [logits], 1)


if __name__ == "__main__":
    main()
