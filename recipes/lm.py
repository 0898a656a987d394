"""`maya lm`: a language model over a recogniser's tokens, from text files or from the texts it was trained
on."""

import argparse
import gzip
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import maya
from maya.data.table.table import Table, part_path
from maya.decode.fusion import Scorer
from maya.decode.lm.arpa import write_arpa
from maya.decode.lm.kneser_ney import NGram
from maya.decode.lm.lstm import LSTMConfig, save_lstm
from maya.decode.lm.make_fusion import ALL_LANGUAGES
from maya.decode.lm.neural import LSTMScorer
from maya.decode.lm.rescoring import text_scores
from maya.decode.lm.token_ngram import estimated, named_arpa
from maya.decode.lm.vocabulary import Vocabulary, vocabulary
from maya.errors import MayaError
from maya.files import write_json
from maya.pages import columns
from maya.ranges import Range
from maya.recipes.arguments import POSITIVE, add_device, number
from maya.recipes.lm_training import LSTMTraining, train_lstm
from maya.recipes.recorded import data_of
from maya.text.languages import language_code
from maya.text.normalize import normalize
from maya.text.tokenizer import Tokenizer

Text = tuple[str, str]  # language and text
Encoded = list[tuple[str, list[int]]]  # language and token ids of each text
HELD_OUT = 20  # one text in so many is held out where no dev texts are given


def arguments(p: argparse.ArgumentParser) -> None:
    text = "the recogniser whose tokens are modelled: a .pt file, a run folder or a .nemo archive"
    p.add_argument("recogniser", type=Path, help=text)
    text = "text files (.txt, .gz), one sentence a line; default: the training texts of the run"
    p.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE", help=text)
    text = "text files to report perplexity on; default: the run's dev texts, or every 20th line of --texts"
    p.add_argument("--dev", type=Path, nargs="+", default=[], metavar="FILE", help=text)
    p.add_argument(
        "--data", type=Path, help="the folder that `maya prepare` wrote; default: that of training"
    )
    text = (
        "language of --texts and --dev, for their normal form; default: the recogniser's, if it has only one"
    )
    p.add_argument("--language", help=text)
    p.add_argument("--as-is", action="store_true", help="do not bring --texts into normal form")
    text = "ngram (the default): Kneser-Ney, written as ARPA; lstm: a small neural model"
    p.add_argument("--kind", choices=("ngram", "lstm"), default="ngram", help=text)
    text = (
        "the folder to write; it is made if missing. An n-gram gets a file for each language and all.arpa.gz"
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    p.add_argument("--order", type=POSITIVE, default=6, metavar="N", help="order of the n-gram (default: 6)")
    p.add_argument("--hidden", type=POSITIVE, default=256, metavar="N", help="width of the LSTM: 256")
    p.add_argument("--layers", type=POSITIVE, default=2, metavar="N", help="layers of the LSTM: 2")
    p.add_argument("--epochs", type=POSITIVE, default=20, metavar="N", help="passes over the texts: 20")
    p.add_argument("--lr", type=number(float, Range(above=0)), default=2e-3, metavar="X", help="0.002")
    add_device(p)


def run(args: argparse.Namespace) -> None:
    recognizer = maya.load(args.recogniser, args.device)
    vocab = vocabulary_of(recognizer)
    languages = recognizer.model.cfg.languages
    training, dev = _texts(args, languages)
    if not training:
        raise MayaError("there are no texts to estimate a language model from")
    encoded, encoded_dev = (_encoded(texts, recognizer.tokenizer) for texts in (training, dev))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.kind == "ngram":
        scorer = write_ngrams(args.out, encoded, vocab, languages, args.order)
    else:
        cfg = LSTMConfig(hidden=args.hidden, layers=args.layers)
        options = LSTMTraining(epochs=args.epochs, lr=args.lr)
        ids, dev_ids = ([tokens for _, tokens in texts] for texts in (encoded, encoded_dev))
        model = train_lstm(ids, dev_ids, recognizer.tokenizer.vocab_size, cfg, options, recognizer.device)
        save_lstm(args.out, model, recognizer.tokenizer)
        scorer = LSTMScorer(model, vocab)
    report = perplexities(scorer, encoded_dev, dev, languages)
    facts = {"kind": args.kind, "texts": len(training), "tokens": sum(len(t) for _, t in encoded)}
    write_json(args.out / "lm.json", facts | {"order": args.order, "dev": report})
    print(f"lm: {facts['texts']} texts, {facts['tokens']} tokens → {args.out}")
    rows = [["language", "dev texts", "perplexity a token", "a word"]]
    rows += [[code or ALL_LANGUAGES, str(r["texts"]), f"{r['per_token']:.2f}", f"{r['per_word']:.1f}"]
             for code, r in report.items()]  # fmt: skip
    print("\n".join(columns(rows)))


def vocabulary_of(recognizer: Any) -> Vocabulary:
    """The tokens of a recogniser with a text head. Raises MayaError for one without."""
    model = recognizer.model
    head = next(iter(model.cfg.text_heads), None)
    if head is None:
        raise MayaError("this model has no text head, so it needs no language model")
    blank = getattr(model.head(head), "blank", model.cfg.vocab_size)
    return vocabulary(recognizer.tokenizer, model.cfg.vocab_size + 1, blank)


def write_ngrams(
    out: Path, texts: Encoded, vocab: Vocabulary, languages: Sequence[str], order: int
) -> Scorer:
    """Estimate an n-gram of each language with texts, and one of all, and write them to `out`."""
    by_language: dict[str, list[list[int]]] = defaultdict(list)
    for code, tokens in texts:
        by_language[""].append(tokens)
        if code in languages and len(languages) > 1:
            by_language[code].append(tokens)
    labels = vocab.outputs - (vocab.blank == vocab.outputs - 1)  # a blank that comes last is no label
    models = {code: NGram(rows, labels, order=order) for code, rows in by_language.items()}
    for code, model in models.items():
        write_arpa(named_arpa(model, vocab), out / f"{code or ALL_LANGUAGES}.arpa.gz")
    return estimated(models, vocab, languages)


def perplexities(
    scorer: Scorer, encoded: Encoded, texts: Sequence[Text], languages: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Perplexity of dev texts a token and a word, their ends counted, by language and of all ("")."""
    import torch

    if not encoded:
        return {}
    langs = torch.tensor([languages.index(code) if code in languages else -1 for code, _ in encoded])
    scores = text_scores(scorer, [tokens for _, tokens in encoded], langs)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for (code, tokens), (_, text), score in zip(encoded, texts, scores, strict=True):
        for group in {code, ""}:
            amounts = (score, len(tokens) + 1, len(text.split()) + 1, 1)
            sums[group] = [a + b for a, b in zip(sums[group], amounts, strict=True)]
    if len(sums) == 2:
        sums = {"": sums[""]}
    return {
        code: {
            "texts": int(count), "per_token": math.exp(-score / tokens), "per_word": math.exp(-score / words)
        }
        for code, (score, tokens, words, count) in sorted(sums.items())
    }  # fmt: skip


def _texts(args: argparse.Namespace, languages: Sequence[str]) -> tuple[list[Text], list[Text]]:
    """Training and dev texts."""
    code = language_code(args.language) if args.language else languages[0] if len(languages) == 1 else ""
    if args.texts:
        training = list(_lines(args.texts, code, as_is=args.as_is))
        if args.dev:
            return training, list(_lines(args.dev, code, as_is=args.as_is))
        held = {i for i in range(0, len(training), HELD_OUT)} if len(training) >= HELD_OUT else set()
        return (
            [text for i, text in enumerate(training) if i not in held],
            [text for i, text in enumerate(training) if i in held],
        )
    if args.recogniser.is_file() and args.data is None:
        raise MayaError("name the texts with --texts, or the folder that `maya prepare` wrote with --data")
    data = data_of(args.recogniser, args.data)
    dev = list(_lines(args.dev, code, as_is=args.as_is)) if args.dev else _prepared(data, "dev")
    return _prepared(data, "train"), dev


def _prepared(data: Path, part: Literal["train", "dev"]) -> list[Text]:
    return [(code, text) for code, text in Table.open(part_path(data, part)).read("language", "text")]


def _lines(paths: Iterable[Path], code: str, *, as_is: bool) -> Iterator[Text]:
    """The lines of text files that are not empty, in normal form."""
    for path in paths:
        try:
            opener: Any = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8-sig") as file:
                for line in file:
                    text = line.strip() if as_is else normalize(line, code or "en")
                    if text:
                        yield code, text
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise MayaError(f"{path} is no text file in UTF-8: {error}") from None


def _encoded(texts: Sequence[Text], tokenizer: Tokenizer) -> Encoded:
    codes = [code or None for code, _ in texts]
    ids = tokenizer.encode_batch([text for _, text in texts], codes)
    return [(code, tokens) for (code, _), tokens in zip(texts, ids, strict=True)]
