"""A small LSTM language model over a recogniser's tokens: `maya lm --kind lstm` trains it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maya.config import config, from_dict, to_dict
from maya.errors import MayaError
from maya.files import replacing, sha256
from maya.ranges import BelowOne, PosInt
from maya.text.tokenizer import Tokenizer


@config
class LSTMConfig:
    """Width of embedding and cells, layers, and dropout before, between and after them."""

    hidden: PosInt = 256
    layers: PosInt = 2
    dropout: BelowOne = 0.2


class LSTMLanguageModel(nn.Module):
    """P(token | tokens before it), for tokens 0 ... vocab_size - 1 and the end of the text, whose id is
    vocab_size. The end also stands before a text. The output layer shares the embedding's weights."""

    def __init__(self, cfg: LSTMConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.end = cfg, vocab_size
        self.embedding = nn.Embedding(vocab_size + 1, cfg.hidden)
        nn.init.normal_(self.embedding.weight, std=cfg.hidden**-0.5)
        between = cfg.dropout if cfg.layers > 1 else 0.0  # torch warns about dropout in a one-layer LSTM
        self.lstm = nn.LSTM(cfg.hidden, cfg.hidden, cfg.layers, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(cfg.dropout)
        self.bias = nn.Parameter(torch.zeros(vocab_size + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) int64 -> logits (B, U + 1, V + 1); output u has read tokens[:, :u]."""
        padded = nn.functional.pad(tokens, (1, 0), value=self.end)
        out, _ = self.lstm(self.dropout(self.embedding(padded)))
        return self._logits(self.dropout(out))

    def _logits(self, out: Tensor) -> Tensor:
        return nn.functional.linear(out, self.embedding.weight, self.bias)

    def losses(self, tokens: Tensor, lens: Tensor) -> Tensor:
        """tokens (B, U), lens (B,) -> minus the log probability (B,) of each text and its end, in nats."""
        targets = nn.functional.pad(tokens, (0, 1))
        targets = targets.scatter(1, lens[:, None], self.end)
        steps = torch.arange(targets.shape[1], device=tokens.device)
        logits = self(tokens).float()
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses.view_as(targets) * (steps <= lens[:, None])).sum(1)

    def initial_state(self, rows: int) -> tuple[Tensor, Tensor]:
        """(h, c), (rows, layers, H) each."""
        shape = (rows, self.cfg.layers, self.cfg.hidden)
        zeros = torch.zeros(shape, device=self.bias.device, dtype=self.bias.dtype)
        return zeros, zeros.clone()

    def step(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read a token (N,) a row -> logits (N, V + 1) of the next, and the new state."""
        out, cells = self.embedding(tokens), []
        # Cell by cell: nn.LSTM has the rows second and repacks its weights on the CPU at every call.
        for layer, weights in enumerate(self.lstm.all_weights):
            out, cell = torch.lstm_cell(out, (state[0][:, layer], state[1][:, layer]), *weights)
            cells.append((out, cell))
        h, c = (torch.stack(part, 1) for part in zip(*cells, strict=True))
        return self._logits(out), (h, c)


def batch_of(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids -> (B, U) padded with 0, (B,)."""
    lens = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lens.max()) if len(texts) else 0, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text), dtype=torch.int64)
    return tokens, lens


def save_lstm(folder: Path, model: LSTMLanguageModel, tokenizer: Tokenizer) -> None:
    """Write `folder`/lm.pt, with the digest of the tokenizer that it belongs to."""
    state = {
        "config": to_dict(model.cfg), "vocab_size": model.end, "weights": model.state_dict(),
        "tokenizer": sha256(tokenizer.model_bytes),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "lm.pt") as partial:
        torch.save(state, partial)


def load_lstm(folder: Path, tokenizer: Tokenizer) -> LSTMLanguageModel:
    """The model of `folder`/lm.pt. Raises MayaError for a file that is none, or of another tokenizer."""
    try:
        state = torch.load(folder / "lm.pt", map_location="cpu", weights_only=True)
        model = LSTMLanguageModel(from_dict(LSTMConfig, state["config"]), state["vocab_size"])
        model.load_state_dict(state["weights"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MayaError(f"{folder / 'lm.pt'} is no language model of `maya lm` ({reason})") from None
    if state["tokenizer"] != sha256(tokenizer.model_bytes):
        raise MayaError(
            f"{folder} was trained with another tokenizer than the recogniser's: train it again with `maya "
            f"lm` "
            "and this recogniser"
        )
    return model.eval()
