"""The model that a tuning starts from, in the vocabulary and with the languages that it shall have."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maya.data.table.table import Table
from maya.data.table.token_table import write_tokens
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.vocabulary import carried_over
from maya.recipes.convert import open_checkpoint
from maya.recipes.experiment_file import import_recorded
from maya.recipes.finetuning.settings import Vocabulary
from maya.recipes.tokenizer import UNKNOWN, unknown_shares
from maya.text.extend import alike, extended, old_ids
from maya.text.sample import TextSample, gather
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, build, save_checkpoint
from maya.train.heads import trained_names

_CHARACTERS_A_PIECE = 200  # of the training texts, for each piece beyond the letters
_MOST_PIECES = 4096
CROWDED = 0.02  # of the training utterances: more of them are worth a sentence
_FASTEST = 1.1  # of the speeds of `SMALL_DATA`


def open_base(path: Path) -> Checkpoint:
    """The checkpoint of anything that `maya.load` takes, with LoRA merged into its weights."""
    import_recorded(path)
    checkpoint = open_checkpoint(path)
    model = build(checkpoint)
    return replace(checkpoint, model_config=model.cfg, weights=model.state_dict(), training=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """vocabulary: keep, extend or replace. reason: why, for people. tokenizer: of the tuned model."""

    vocabulary: Vocabulary
    reason: str
    tokenizer: Tokenizer


def texts_of(table: Table) -> TextSample:
    """The training texts by language."""
    return gather(
        table.read("language", "text"), lines_per_language=TokenizerConfig().lines_per_language, seed=0
    )


def choose_vocabulary(base: Checkpoint, texts: TextSample, wanted: str, pieces: int) -> Start:
    """The vocabulary of the tuned model. wanted: keep, extend, replace or auto: the old one where it has the
    letters of the texts, else extended. pieces: to train; 0: by the amount of text."""
    lacking = unknown_shares(texts, base.tokenizer) if wanted == "auto" else {}
    worst = max(lacking, key=lambda code: lacking[code], default="")
    if wanted == "keep" or (wanted == "auto" and lacking[worst] <= UNKNOWN):
        reason = "the old pieces have the letters of the texts" if wanted == "auto" else "as asked"
        return Start(vocabulary="keep", reason=reason, tokenizer=base.tokenizer)
    letters = len({char for text in texts.values() for char in text.characters})
    amount = sum(text.length for text in texts.values())
    size = pieces or letters + min(_MOST_PIECES, amount // _CHARACTERS_A_PIECE) + 3
    cfg = TokenizerConfig(vocab_size=size, min_char_count=1)
    if wanted == "replace":
        return Start(vocabulary="replace", reason="as asked", tokenizer=train_tokenizer(texts, cfg))
    made = extended(base.tokenizer, texts, cfg)
    if made is base.tokenizer:
        return Start(vocabulary="keep", reason="the texts have no letter that it lacks", tokenizer=made)
    reason = f"{lacking[worst]:.1%} of the letters in {worst} have no piece" if lacking else "as asked"
    return Start(vocabulary="extend", reason=reason, tokenizer=made)


def crowded_share(cfg: SpeechModelConfig, table: Table, tokenizer: Tokenizer) -> float:
    """The share of utterances with fewer frames than CTC needs for their text, at the highest speed; 0 for a
    model whose heads need no frames."""
    if not any(head.needs_frames for head in cfg.heads.values()):
        return 0.0
    frames = cfg.clock.frames_of(table.durations, _FASTEST)
    with tempfile.TemporaryDirectory() as folder:
        needed = write_tokens(Path(folder) / "tokens.arrow", table, tokenizer).ctc_frames
        return float((needed > frames).mean())


def check_texts(start: Start, texts: TextSample) -> None:
    """Raise MayaError where a kept vocabulary lacks the letters of the texts."""
    lacking = unknown_shares(texts, start.tokenizer)
    worst = max(lacking, key=lambda code: lacking[code])
    if lacking[worst] > 0.2 and not any(
        start.tokenizer.is_byte(i) for i in range(start.tokenizer.vocab_size)
    ):
        raise MayaError(
            f"the vocabulary has no piece for {lacking[worst]:.0%} of the letters in {worst}: give "
            "--vocabulary extend"
        )


def write_start(base: Checkpoint, start: Start, languages: Sequence[str], run: Path, seed: int) -> None:
    """Write `run`/start.pt, the model before tuning in its vocabulary, and `run`/before.pt, that which is
    compared with: the same, or with a replaced vocabulary the base with its own."""
    torch.manual_seed(seed)  # of the rows of new pieces in embeddings
    old, made = base.model_config, start.tokenizer
    _save(base, made, with_vocabulary(old, made.vocab_size, tuple(languages)), run / "start.pt")
    kept = base.tokenizer if start.vocabulary == "replace" else made
    _save(base, kept, with_vocabulary(old, kept.vocab_size, tuple(languages)), run / "before.pt")


def _save(base: Checkpoint, tokenizer: Tokenizer, cfg: SpeechModelConfig, path: Path) -> None:
    if tokenizer.model_bytes == base.tokenizer.model_bytes:
        ids, others = list(range(tokenizer.vocab_size)), []
    else:
        ids, others = old_ids(base.tokenizer, tokenizer), alike(base.tokenizer, tokenizer)
    weights = carried_over(base.weights, base.model_config, cfg, ids, others)
    notes = base.notes | {"trained": list(trained_names(base))}
    save_checkpoint(
        path,
        Checkpoint(model_config=cfg, tokenizer=tokenizer, weights=weights, step=base.step, notes=notes),
    )
