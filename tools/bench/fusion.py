"""Language models and hot words on recorded speech: error rates with intervals, and how often hot words are
recognised and wrongly recognised, over the weights.

    python -m tools.bench.fusion exp/indic12/indic12/ml --out docs/benchmarks
    python -m tools.bench.fusion exp/digits/digits/digits --phrase-words 4 --skip-lm --name hotwords

The run's test speakers are not in its training data. Frames are encoded once; each setting is a search over
them. Weights of language models are chosen on dev.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maya
from maya.data.loading.loader import EvalLoader
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.base import Method, MethodConfig
from maya.decode.fusion import Fusion, Part
from maya.decode.lm.kneser_ney import ngrams_by_language
from maya.decode.lm.phrases import Phrase, hot_words
from maya.decode.lm.token_ngram import estimated
from maya.decode.lm.vocabulary import Vocabulary
from maya.decode.methods import METHODS
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.files import write_json
from maya.recipes.lm import vocabulary_of
from maya.recipes.recorded import data_of
from maya.score.wer import compare, interval, wer, words_of

LM_WEIGHTS, BONUSES = (0.2, 0.4, 0.6, 0.8), (0.0, 1.0, 2.0)
HOT_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LIST, SPOKEN, LISTED = 500, 10, 100  # phrases of a list, spoken ones among them: few, and many
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "transducer, greedy": ("transducer", {}),
    "transducer, beam 8": ("alsd", {"beam": 8}),
    "CTC, greedy": ("ctc", {}),
    "CTC, beam 16": ("ctc_beam", {"lm_order": 0, "token_bonus": 0.0, "beam": 16}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """The encoded utterances of a part of the data, and their references."""

    batches: list[tuple[Encoded, Tensor]]
    refs: list[str]


@torch.inference_mode()
def encoded_part(recognizer: Recognizer, data: Path, part: str) -> Speech:
    """Every utterance of a part."""
    utterances = Utterances.from_table(
        Table.open(part_path(data, part)), recognizer.tokenizer, recognizer.model.cfg.languages
    )
    texts = dict(Table.open(part_path(data, part)).read("id", "text"))
    loader = EvalLoader(
        utterances, recognizer.tokenizer, recognizer.model.cfg.languages,
        sample_rate=recognizer.sample_rate, max_seconds=120.0,
    )  # fmt: skip
    batches, refs = [], []
    for batch in loader:
        batch = batch.to(recognizer.device)
        batches.append((recognizer.model.encode_audio(batch.audio, batch.audio_lens), batch.langs))
        refs += [texts[name] for name in batch.ids]
    return Speech(batches=batches, refs=refs)


def decoded(recognizer: Recognizer, speech: Speech, search: str, fusion: Fusion | None) -> list[str]:
    """The texts of a search, in the order of the references."""
    name, options = SEARCHES[search]
    choice = recognizer.choose_method(name)
    cfg: MethodConfig = METHODS[name](**options)
    method: Method = recognizer.make_method(choice, cfg, fusion=fusion)
    hyps = [hyp for encoded, langs in speech.batches for hyp in method(encoded, langs)]
    return [hyp.text for hyp in recognizer.with_text(hyps)]


def rates(refs: Sequence[str], hyps: Sequence[str]) -> dict[str, Any]:
    """WER and inserted words in percent, the former with its 95 % interval."""
    stats = wer(refs, hyps)
    counts = stats.counts.sum(0)
    bounds, words = interval(stats), int(counts[3])
    return {
        "wer": 100 * int(counts[:3].sum()) / words, "interval": [100 * bounds.low, 100 * bounds.high],
        "insertions": 100 * int(counts[2]) / words, "words": words,
    }  # fmt: skip


def difference(refs: Sequence[str], before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """Points of WER gained, with a paired 95 % interval and p."""
    result = compare(wer(refs, before), wer(refs, after))
    bounds = [100 * result.interval.low, 100 * result.interval.high]
    return {"points": 100 * result.difference, "interval": bounds, "p": result.p_value}


@dataclass(frozen=True, kw_only=True, slots=True)
class HotScore:
    """spoken: occurrences of hot words in the references; hits: those recognised; shown: occurrences in the
    hypotheses."""

    spoken: int
    hits: int
    shown: int

    def __add__(self, other: "HotScore") -> "HotScore":
        return HotScore(
            spoken=self.spoken + other.spoken, hits=self.hits + other.hits, shown=self.shown + other.shown
        )


def hot_score(refs: Iterable[str], hyps: Iterable[str], phrases: Iterable[str]) -> HotScore:
    """Occurrences of phrases by utterance: in the reference, in the hypothesis, and in both."""
    hot = {tuple(words_of(phrase)) for phrase in phrases}
    lengths = {len(phrase) for phrase in hot}
    spoken = hits = shown = 0
    for ref, hyp in zip(refs, hyps, strict=True):
        said, written = (
            Counter(g for n in lengths for g in grams(text, n) if g in hot) for text in (ref, hyp)
        )
        spoken, shown = spoken + said.total(), shown + written.total()
        hits += (said & written).total()
    return HotScore(spoken=spoken, hits=hits, shown=shown)


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    """The sequences of n words of a text."""
    words = words_of(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all measurements share."""

    recognizer: Recognizer
    vocab: Vocabulary
    train: list[tuple[str, str]]
    dev: Speech
    test: Speech

    def fusion(self, parts: Iterable[Part], bonus: float = 0.0) -> Fusion:
        return Fusion(tuple(parts), blank=self.vocab.blank, token_bonus=bonus)

    def ngram(self, texts: Iterable[tuple[str, str]], order: int) -> Any:
        """The scorer of an n-gram of texts."""
        tokenizer, cfg = self.recognizer.tokenizer, self.recognizer.model.cfg
        ids = [(code, tokenizer.encode(text, code)) for code, text in texts]
        models = ngrams_by_language(ids, cfg.vocab_size, order)
        return estimated({"": models[""]}, self.vocab, cfg.languages)

    def hot(self, words: Iterable[str]) -> Any:
        """The scorer of a list of hot words."""
        return hot_words(
            [[Phrase(text=word) for word in words]], self.vocab, self.recognizer.model.cfg.languages
        )

    def wer_of(self, speech: Speech, search: str, fusion: Fusion | None) -> float:
        return float(rates(speech.refs, decoded(self.recognizer, speech, search, fusion))["wer"])


def language_model(bench: Bench, search: str, order: int) -> dict[str, Any]:
    """The search without and with n-grams of the training texts, weight and bonus chosen on dev. Texts that
    test utterances share with training make the first n-gram strong; the second has not seen them."""
    plain = decoded(bench.recognizer, bench.test, search, None)
    result: dict[str, Any] = {"plain": rates(bench.test.refs, plain)}
    shared = set(bench.test.refs) | set(bench.dev.refs)
    for name, texts in (("all", bench.train), ("unseen", [t for t in bench.train if t[1] not in shared])):
        scorer = bench.ngram(texts, order)
        tried = {
            (weight, bonus): bench.wer_of(
                bench.dev, search, bench.fusion([Part(weight=weight, scorer=scorer)], bonus)
            )
            for weight, bonus in product(LM_WEIGHTS, BONUSES)
        }
        weight, bonus = min(tried, key=tried.__getitem__)
        fused = decoded(
            bench.recognizer, bench.test, search, bench.fusion([Part(weight=weight, scorer=scorer)], bonus)
        )
        result[name] = {
            "texts": len(texts), "weight": weight, "bonus": bonus, **rates(bench.test.refs, fused),
            "difference": difference(bench.test.refs, plain, fused),
        }  # fmt: skip
    return result


Lists = list[tuple[list[str], list[str]]]


def draws(bench: Bench, refs: Sequence[str], *, count: int, spoken: int, length: int, seed: int = 0) -> Lists:
    """Lists of hot phrases of `length` words: `spoken` of the references, and LIST - spoken of the training
    texts that nobody says there. Single words have at least four letters."""

    def phrases(texts: Iterable[str]) -> set[str]:
        every = {" ".join(gram) for text in texts for gram in grams(text, length)}
        return {phrase for phrase in every if len(phrase) >= 4}

    said = phrases(refs)
    if len(said) < spoken:
        sys.exit(
            f"the references have {len(said)} phrases of {length} words, not {spoken}; raise --phrase-words"
        )
    silent = sorted(phrases(text for _, text in bench.train) - said)
    rng, fill = random.Random(seed), min(LIST - spoken, len(silent))
    return [(rng.sample(sorted(said), spoken), rng.sample(silent, fill)) for _ in range(count)]


def curve(bench: Bench, search: str, lists: Lists) -> list[dict[str, Any]]:
    """Over the weights: precision and recall of the phrases, WER and inserted words; sums over the lists."""
    rows: list[dict[str, Any]] = []
    for weight in HOT_WEIGHTS:
        total, wers, insertions = HotScore(spoken=0, hits=0, shown=0), [], []
        for spoken, silent in lists:
            fusion = bench.fusion([Part(weight=weight, scorer=bench.hot([*spoken, *silent]))])
            hyps = decoded(bench.recognizer, bench.test, search, fusion or None)
            total += hot_score(bench.test.refs, hyps, [*spoken, *silent])
            measured = rates(bench.test.refs, hyps)
            wers.append(measured["wer"])
            insertions.append(measured["insertions"])
        inserted = sum(insertions) / len(insertions)
        rows.append({
            "weight": weight, "recall": 100 * total.hits / max(1, total.spoken),
            "precision": 100 * total.hits / max(1, total.shown), "spoken": total.spoken, "shown": total.shown,
            "wer": sum(wers) / len(wers), "insertions": inserted,
            "added_insertions": inserted - rows[0]["insertions"] if rows else 0.0,
        })  # fmt: skip
    return rows


def listed(bench: Bench, search: str, length: int) -> dict[str, Any]:
    """A list of which LISTED phrases are spoken: names that a user knows will come. The weight is chosen on
    dev, with another list."""

    def fused(refs: Sequence[str], seed: int) -> tuple[list[str], Callable[[float], Fusion]]:
        ((spoken, silent),) = draws(bench, refs, count=1, spoken=LISTED, length=length, seed=seed)
        scorer = bench.hot([*spoken, *silent])
        return [*spoken, *silent], lambda weight: bench.fusion([Part(weight=weight, scorer=scorer)])

    _, on_dev = fused(bench.dev.refs, 2)
    weight = min(HOT_WEIGHTS[1:], key=lambda w: bench.wer_of(bench.dev, search, on_dev(w)))
    phrases, on_test = fused(bench.test.refs, 1)
    plain = decoded(bench.recognizer, bench.test, search, None)
    hyps = decoded(bench.recognizer, bench.test, search, on_test(weight))
    scores = [hot_score(bench.test.refs, texts, phrases) for texts in (plain, hyps)]
    return {
        "spoken": LISTED, "phrases": len(phrases), "weight": weight,
        "plain": rates(bench.test.refs, plain), **rates(bench.test.refs, hyps),
        "difference": difference(bench.test.refs, plain, hyps),
        "recall": [100 * s.hits / max(1, s.spoken) for s in scores],
        "precision": [100 * s.hits / max(1, s.shown) for s in scores],
    }  # fmt: skip


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """All measurements of each search."""
    drawn = draws(bench, bench.test.refs, count=args.lists, spoken=SPOKEN, length=args.phrase_words)
    result: dict[str, Any] = {}
    for search in args.search:
        result[search] = {} if args.skip_lm else {"lm": language_model(bench, search, args.order)}
        if not args.skip_hotwords:
            result[search]["curve"] = curve(bench, search, drawn)
            result[search]["listed"] = listed(bench, search, args.phrase_words)
        print(json.dumps({search: result[search]}, indent=1), flush=True)
    return result


def page(result: dict[str, Any]) -> str:
    """The Markdown page of a result."""
    lines = ["# Language models and hot words on recorded speech", "", f"`{result['command']}`", "",
             result["about"]]  # fmt: skip
    with_lm = {search: m["lm"] for search, m in result["searches"].items() if "lm" in m}
    if with_lm:
        head = "| search | n-gram | weight, bonus | WER | difference |"
        lines += ["", "## n-gram of the training texts", "", head, "|---|---|---|---|---|"]
    for search, lm in with_lm.items():
        lines.append(f"| {search} | none | | {_rate(lm['plain'])} | |")
        for name, text in (("all", "all training texts"), ("unseen", "without the test and dev texts")):
            row = lm[name]
            lines.append(
                f"| {search} | {text} | {row['weight']:g}, {row['bonus']:g} | {_rate(row)} | "
                f"{_difference(row['difference'])} |"
            )
    hot = {search: m for search, m in result["searches"].items() if "curve" in m}
    if hot:
        head = "| search | phrases, weight | WER without | with | difference | recall | precision |"
        lines += ["", f"## {LISTED} spoken phrases in a list", "", head, "|---|---|---|---|---|---|---|"]
    for search, measured in hot.items():
        row = measured["listed"]
        recall, precision = ([f"{x:.1f}" for x in row[name]] for name in ("recall", "precision"))
        lines.append(
            f"| {search} | {row['phrases']}, {row['weight']:g} | {_rate(row['plain'])} | {_rate(row)} | "
            f"{_difference(row['difference'])} | {recall[0]} → {recall[1]} % | "
            f"{precision[0]} → {precision[1]} % |"
        )
    for search, measured in hot.items():
        lines += ["", f"## {search}: {SPOKEN} spoken phrases in a list of {LIST}", "",
                  "| weight | recall | precision | WER | inserted words | added by the list |",
                  "|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {row['weight']:g} | {row['recall']:.1f} % | {row['precision']:.1f} % | {row['wer']:.2f} % | "
            f"{row['insertions']:.2f} % | {row['added_insertions']:+.2f} points |"
            for row in measured["curve"]
        ]
    return "\n".join(lines) + "\n"


def _rate(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['wer']:.1f} % [{low:.1f}, {high:.1f}]"


def _difference(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['points']:+.2f} points [{low:+.2f}, {high:+.2f}], p = {row['p']:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None, allow_abbrev=False)
    p.add_argument("run", type=Path)
    p.add_argument("--data", type=Path)
    p.add_argument("--search", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    p.add_argument("--order", type=int, default=6)
    p.add_argument("--lists", type=int, default=5, help="lists of hot words that are drawn")
    p.add_argument("--phrase-words", type=int, default=1, help="words of a hot phrase")
    p.add_argument("--skip-lm", action="store_true")
    p.add_argument("--skip-hotwords", action="store_true")
    p.add_argument("--name", default="fusion", help="of the files that are written")
    p.add_argument("--out", type=Path, default=Path("exp/bench"))
    args = p.parse_args(argv)
    recognizer = maya.load(args.run, "cpu")
    data = data_of(args.run, args.data)
    train = list(Table.open(part_path(data, "train")).read("language", "text"))
    bench = Bench(
        recognizer=recognizer, vocab=vocabulary_of(recognizer), train=train,
        dev=encoded_part(recognizer, data, "dev"), test=encoded_part(recognizer, data, "test"),
    )  # fmt: skip
    searches = measure(bench, args)
    about = (
        f"{len(bench.test.refs)} test utterances, {sum(len(words_of(r)) for r in bench.test.refs)} words; "
        f"{len(bench.dev.refs)} of dev chose weight and bonus. Intervals are 95 %, bootstrap over "
        f"utterances. "
        f"Hot words: means over {args.lists} lists drawn at random."
    )
    options = f"--phrase-words {args.phrase_words} --lists {args.lists} --order {args.order}"
    options += " --skip-lm" * args.skip_lm + " --skip-hotwords" * args.skip_hotwords
    command = f"python -m tools.bench.fusion RUN {options} --name {args.name}"
    result = {"about": about, "command": command, "searches": searches}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"{args.name}.json", result)
    (args.out / f"{args.name}.md").write_text(page(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
