"""Stage 2: the training texts → a SentencePiece tokenizer."""

from pathlib import Path

from lhotse import CutSet

from maya.config import to_dict
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, is_done, mark_done
from maya.text.tokenizer import Tokenizer, train_tokenizer


def tokenizer(experiment: Experiment, data: Path, run: Path, *, force: bool = False) -> None:
    """Train `run`/tokenizer.model on the texts of `data`/cuts_train.jsonl.gz."""
    cuts_path = require(data / "cuts_train.jsonl.gz", "run stage 1 (prepare) first")
    inputs = {"data": content(data / "stage.json"), "options": to_dict(experiment.tokenizer)}
    if is_done(run / "stage-tokenizer.json", inputs) and (run / "tokenizer.model").is_file() and not force:
        print(f"tokenizer: {run / 'tokenizer.model'} is up to date")
        return
    texts: dict[str, list[str]] = {}
    for cut in CutSet.from_file(cuts_path):
        supervision = cut.supervisions[0]
        texts.setdefault(supervision.language, []).append(supervision.text)
    made = train_tokenizer(texts, experiment.tokenizer)
    run.mkdir(parents=True, exist_ok=True)
    made.save(run / "tokenizer.model")
    print(f"tokenizer: {made.vocab_size} pieces → {run / 'tokenizer.model'}")
    print(fertility_table(made, texts))
    mark_done(run / "stage-tokenizer.json", inputs)


def fertility_table(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> str:
    """Pieces per word of each language: how finely the tokenizer cuts it."""
    cells = []
    for language, lines in sorted(texts.items()):
        words = sum(len(t.split()) for t in lines)
        pieces = sum(len(tokenizer.encode(t)) for t in lines)
        cells.append(f"{language} {pieces / max(words, 1):.2f}")
    return "pieces per word: " + "  ".join(cells)


def require(path: Path, what_to_do: str) -> Path:
    """`path` if it exists, else MayaError."""
    if not path.exists():
        raise MayaError(f"{path} is missing; {what_to_do}")
    return path
