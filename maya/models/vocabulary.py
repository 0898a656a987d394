"""A model in another vocabulary, or with more languages: rows of pieces and languages that stay are copied.

The tensors that depend on the vocabulary, and the dimension in which they do, are found by building the model
once more with another size, on the meta device; so heads of a user's own are grown as Maya's are.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel

_MARGIN = 0.01  # nats, by which a new piece is behind the old one that is spoken alike


def vocabulary_dims(cfg: SpeechModelConfig) -> dict[str, int]:
    """The names in the state dict of tensors with a row for each piece, and the dimension of these rows."""
    return _dims(cfg, dataclasses.replace(cfg, vocab_size=cfg.vocab_size + 1))


def language_dims(cfg: SpeechModelConfig) -> dict[str, int]:
    """The same for a row for each of `cfg.languages`."""
    return _dims(cfg, dataclasses.replace(cfg, languages=(*cfg.languages, "one more")))


def _dims(cfg: SpeechModelConfig, larger: SpeechModelConfig) -> dict[str, int]:
    """The dimension in which a tensor of `larger` has one row more."""
    with torch.device("meta"):
        shapes, others = ({k: v.shape for k, v in SpeechModel(c).state_dict().items()} for c in (cfg, larger))
    changed = {name: shape for name, shape in shapes.items() if others[name] != shape}
    return {
        name: next(d for d, size in enumerate(shape) if others[name][d] == size + 1)
        for name, shape in changed.items()
    }


@torch.no_grad()
def carried_over(
    weights: Mapping[str, Tensor],
    old: SpeechModelConfig,
    new: SpeechModelConfig,
    ids: Sequence[int],
    alike: Sequence[int] = (),
) -> dict[str, Tensor]:
    """The state dict of a model of `new` with the weights of a model of `old`.

    ids: for each piece of the new vocabulary, its id in the old one, or -1. alike: for each piece, the old
    id of one that is spoken alike, or -1.

    A row that has an old one is its copy, bit for bit, and so are the rows behind the pieces: blank and
    durations. A new piece has the row of the one that is spoken alike, with an output bias that is a little
    lower. Without such a one its output row is the mean of the old pieces' rows, and its embedding is drawn
    as in a new model. Either way no new piece is the best before it has learnt (a mean of logits is at most
    the highest), so what was recognised before is recognised still.

    Languages must be those of `old`, then new ones, which have the mean row of the others. Everything else
    is the same. Raises MayaError for languages in another order, and for tensors that do not fit.
    """
    if tuple(new.languages[: len(old.languages)]) != tuple(old.languages):
        raise MayaError("the languages of a model stay in their order; name new ones after them")
    if len(ids) != new.vocab_size:
        raise MayaError(f"{len(ids)} ids for a vocabulary of {new.vocab_size} pieces; give one for each")
    same_size = (new.vocab_size, new.languages) == (old.vocab_size, old.languages)
    if same_size and list(ids) == list(range(old.vocab_size)):
        return dict(weights)
    model = SpeechModel(new)
    made, embedded = model.state_dict(), _embeddings(model)
    pieces, languages = vocabulary_dims(old), language_dims(old) if old.languages else {}
    for name, fresh in made.items():
        source = weights.get(name)
        if source is not None and name in pieces:
            dim = pieces[name]
            both = source.movedim(dim, 0), fresh.movedim(dim, 0)
            rows = _piece_rows(*both, ids, old, name in embedded)
            _copy_alike(rows, source.movedim(dim, 0), ids, alike)
            made[name] = rows.movedim(0, dim).contiguous()
        elif source is not None and name in languages:
            dim = languages[name]
            rows = source.movedim(dim, 0)
            added = rows.mean(0, keepdim=True).expand(
                len(new.languages) - len(old.languages), *rows.shape[1:]
            )
            made[name] = torch.cat([rows, added]).movedim(0, dim).contiguous()
        elif source is not None and source.shape == fresh.shape:
            made[name] = source.clone()
        elif source is not None:
            raise MayaError(f"{name} is {tuple(source.shape)} in the old model and {tuple(fresh.shape)} here")
    return made


def _piece_rows(
    source: Tensor, fresh: Tensor, ids: Sequence[int], old: SpeechModelConfig, is_embedding: bool
) -> Tensor:
    """source (V_old + c, ...) and fresh (V_new + c, ...), of the same c rows behind the pieces."""
    behind = source[old.vocab_size :]
    index = torch.tensor(ids, dtype=torch.int64)
    is_old = index >= 0
    rows = (
        fresh[: len(ids)].clone()
        if is_embedding
        else _mean_piece(source, old).expand(len(ids), *source.shape[1:])
    )
    rows = torch.where(is_old.view(-1, *[1] * (source.ndim - 1)), source[index.clamp(min=0)], rows)
    return torch.cat([rows.to(source.dtype), behind])


def _copy_alike(rows: Tensor, source: Tensor, ids: Sequence[int], alike: Sequence[int]) -> None:
    """Copy rows of source (V_old + c, ...) to those of rows (V_new + c, ...) that are new, in place."""
    for i, (own, other) in enumerate(zip(ids, alike, strict=False)):
        if own < 0 <= other:
            rows[i] = source[other] - (_MARGIN if source.ndim == 1 else 0.0)


def _mean_piece(source: Tensor, old: SpeechModelConfig) -> Tensor:
    """The mean row of the pieces, (1, ...); a blank among them is none."""
    first = 1 if old.blank_first else 0
    return source[first : old.vocab_size].double().mean(0, keepdim=True).to(source.dtype)


def _embeddings(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}


def fix_rows(model: SpeechModel, count: int) -> None:
    """Keep the first `count` pieces' rows of all embeddings and output layers as they are: their gradients
    are zero, and `maya.train.optimizers` does not decay these tensors."""
    parameters = dict(model.named_parameters())
    for name, dim in vocabulary_dims(model.cfg).items():
        p = parameters.get(name)
        if p is None or not p.requires_grad:
            continue
        p.fixed_rows = count  # type: ignore[attr-defined]
        p.register_hook(
            lambda grad, dim=dim: grad.index_fill(dim, torch.arange(count, device=grad.device), 0.0)
        )
