"""Training of the LSTM language model of `maya lm`."""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from maya.config import config
from maya.decode.lm.lstm import LSTMConfig, LSTMLanguageModel, batch_of
from maya.ranges import PosFloat, PosInt, Seed

_BUFFER = 64  # batches that are sorted by length at once


@config
class LSTMTraining:
    """Adam at `lr`, which falls to 0 along a cosine; batches of `batch_tokens` padded tokens. The weights of
    the epoch with the lowest perplexity on dev are kept."""

    epochs: PosInt = 20
    lr: PosFloat = 2e-3
    batch_tokens: PosInt = 1000
    clip: PosFloat = 1.0
    seed: Seed = 0


def train_lstm(
    texts: Sequence[Sequence[int]],
    dev: Sequence[Sequence[int]],
    vocab_size: int,
    cfg: LSTMConfig,
    options: LSTMTraining,
    device: torch.device,
) -> LSTMLanguageModel:
    """texts, dev: token ids. Prints a line an epoch. Without dev the weights of the last epoch are kept."""
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = LSTMLanguageModel(cfg, vocab_size).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.01)
        total = options.epochs * max(1, sum(1 for _ in _batches(texts, options, generator)))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        best, kept = math.inf, copy.deepcopy(model.state_dict())
        for epoch in range(1, options.epochs + 1):
            model.train()
            loss_sum = count = 0.0
            for tokens, lens in _batches(texts, options, generator):
                losses = model.losses(tokens.to(device), lens.to(device)).sum()
                targets = float(lens.sum()) + len(lens)
                optimizer.zero_grad()
                (losses / targets).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                optimizer.step()
                if schedule.last_epoch < total:
                    schedule.step()
                loss_sum, count = loss_sum + float(losses.detach()), count + targets
            dev_loss = mean_loss(model, dev, options) if dev else math.inf
            print(f"epoch {epoch}  training perplexity {math.exp(loss_sum / count):.2f}"
                  + (f"  dev {math.exp(dev_loss):.2f}" if dev else ""), flush=True)  # fmt: skip
            if dev_loss < best or not dev:
                best, kept = dev_loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model.eval()


@torch.no_grad()
def mean_loss(model: LSTMLanguageModel, texts: Sequence[Sequence[int]], options: LSTMTraining) -> float:
    """Nats a token, ends counted."""
    model.eval()
    device, total, count = model.bias.device, 0.0, 0
    for tokens, lens in _batches(texts, options, None):
        total += float(model.losses(tokens.to(device), lens.to(device)).sum())
        count += int(lens.sum()) + len(lens)
    return total / max(1, count)


def _batches(
    texts: Sequence[Sequence[int]], options: LSTMTraining, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of texts of similar length, in random order with a generator."""
    count = len(texts)
    order = list(range(count)) if generator is None else torch.randperm(count, generator=generator).tolist()
    mean = sum(map(len, texts)) / max(1, count) + 1
    pool = max(1, int(_BUFFER * options.batch_tokens / mean))
    for first in range(0, count, pool):
        rows = sorted(order[first : first + pool], key=lambda i: len(texts[i]))
        parts: list[list[int]] = [[]]
        for i in rows:
            if parts[-1] and (len(parts[-1]) + 1) * (len(texts[i]) + 1) > options.batch_tokens:
                parts.append([])
            parts[-1].append(i)
        if generator is not None:
            parts = [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]
        for part in parts:
            if part:
                yield batch_of([texts[i] for i in part])
