"""Beam searches on a trained run: word error rates, the time of the search alone, and CTC's search in tensors
beside the one in Python that it replaced.

    python -m tools.bench.beams RUN --data DATA [--split test] [--rounds 5] [--out FILE.json]

The encoder runs once. All searches decode the same encoder frames in turn, in batches of 120 s; the figures
are medians of their processor time. The interval of a word error rate is 95 %, by bootstrap over utterances.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maya
from maya.data.loading.loader import EvalLoader
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.base import Method, MethodContext
from maya.decode.beams.fused_rows import fusion_start
from maya.decode.ctc.alignment import align_ctc
from maya.decode.ctc.beam import beam_ctc
from maya.decode.ctc.greedy import collapse_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.lm.kneser_ney import ngrams_by_language
from maya.decode.methods import METHODS, choose_method
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.recipes.training_texts import training_texts
from maya.score.wer import interval, wer
from tools.bench.common import (
    clock_of,
    command_of,
    finish,
    in_turns,
    markdown,
    median_ratio,
    medians,
    parser_of,
)
from tools.bench.ctc_beam_python import reference_ctc

SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "transducer": ("transducer", {}),
    "alsd 4": ("alsd", {"beam": 4}),
    "alsd 8": ("alsd", {"beam": 8}),
    "maes 4": ("maes", {"beam": 4}),
    "modified_beam 4": ("modified_beam", {"beam": 4}),
    "ctc": ("ctc", {}),
    "ctc_beam 16": ("ctc_beam", {"beam": 16, "lm_order": 0, "token_bonus": 0.0}),
    "ctc_beam 16, 6-gram": ("ctc_beam", {"beam": 16, "lm_order": 6}),
}


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """A batch of encoder frames, with the ids of its utterances."""

    encoded: Encoded
    langs: Tensor
    ids: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("run", type=Path, help="the folder of a trained run")
    parser.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python-only", action="store_true", help="only CTC against the search in Python")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args(argv)
    recognizer = maya.load(args.run)
    table = Table.open(part_path(args.data, args.split))
    refs = {entry.id: entry.text for entry in table.entries()}
    parts = list(encoded_parts(recognizer, table))
    methods = dict(usable_methods(recognizer, args.data))
    if args.python_only:
        methods = {name: method for name, method in methods.items() if "6-gram" in name}
    rows, result = searched(recognizer, parts, methods, refs, args.rounds)
    print("\n".join(markdown(["search", "WER", "95 %", "seconds"], rows)))
    if "ctc_beam 16, 6-gram" in methods:
        method = methods["ctc_beam 16, 6-gram"]
        result["against_python"] = [against_python(method, parts, args, t) for t in (1.0, 1.5, 2.0)]
    finish(result, "beams", command_of("beams", argv), args.out)


@torch.inference_mode()
def encoded_parts(recognizer: Recognizer, table: Table) -> Iterator[FrameBatch]:
    """The encoder frames of all utterances of a table."""
    languages = recognizer.model.cfg.languages
    utterances = Utterances.from_table(table, recognizer.tokenizer, languages)
    loader = EvalLoader(
        utterances, recognizer.tokenizer, languages,
        sample_rate=recognizer.sample_rate, max_seconds=120.0,
    )  # fmt: skip
    for batch in loader:
        batch = batch.to(recognizer.device)
        encoded = recognizer.model.encode_audio(batch.audio, batch.audio_lens, hidden=recognizer.model.hidden)
        yield FrameBatch(encoded, batch.langs, list(batch.ids))


def usable_methods(recognizer: Recognizer, data: Path) -> Iterator[tuple[str, Method]]:
    """The searches that the model's heads allow."""
    texts = training_texts(data, recognizer.tokenizer)
    for name, (kind, options) in SEARCHES.items():
        if any(head.kind == METHODS[kind]().heads[0]().kind for head in recognizer.model.cfg.heads.values()):
            choice = choose_method(kind, recognizer.model.cfg, recognizer.trained_heads())
            cfg = METHODS[kind](**options)
            context = MethodContext(model=recognizer.model, heads=choice.heads, texts=texts)
            yield name, cfg.build(context)


def searched(
    recognizer: Recognizer,
    parts: list[FrameBatch],
    methods: dict[str, Method],
    refs: dict[str, str],
    rounds: int,
) -> tuple[list[list[str]], dict[str, Any]]:
    """The rows of the table and the same figures by search."""
    hyps: dict[str, dict[str, str]] = {}

    def run(name: str) -> Callable[[], None]:
        def decode() -> None:
            hyps[name] = {}
            for part in parts:
                own = recognizer.with_text(methods[name](part.encoded, part.langs))
                hyps[name] |= {i: hyp.text for i, hyp in zip(part.ids, own, strict=True)}

        return decode

    clock = clock_of(recognizer.device)
    seconds = medians(in_turns({name: run(name) for name in methods}, rounds, clock))
    rows, figures = [], {}
    for name in methods:
        stats = wer(refs.values(), [hyps[name][i] for i in refs])
        bounds = interval(stats)
        rows.append(
            [
                name, f"{100 * stats.rate:.2f} %", f"[{100 * bounds.low:.2f}, {100 * bounds.high:.2f}]",
                f"{seconds[name]:.2f}",
            ]
        )  # fmt: skip
        figures[name] = {"wer": stats.rate, "low": bounds.low, "high": bounds.high, "seconds": seconds[name]}
    return rows, {"utterances": len(refs), "searches": figures}


def against_python(
    method: Any, parts: list[FrameBatch], args: argparse.Namespace, temperature: float
) -> dict[str, Any]:
    """CTC's beam of 16 with 6-grams in tensors and in Python: texts that differ, and the ratio of the times.

    Both read the same log probabilities, which are computed before, and place their texts on the best path.
    temperature: of the log probabilities; above 1 there are more tokens to try.
    """
    (head,), cfg, model = method.heads, method.cfg, method.model
    texts = training_texts(args.data, maya.load(args.run).tokenizer)
    lms = ngrams_by_language(texts(), model.cfg.vocab_size, cfg.lm_order)
    hyps: dict[str, list[list[int]]] = {}
    with torch.inference_mode():
        frames = [method.conditioned(part.encoded, part.langs).frames for part in parts]
        log_probs = [(head(x) / temperature).log_softmax(-1) for x in frames]
    # Mean over the frames; the best output of each, mostly blank, does not count.
    tried = [
        float((row[:n] > row[:n].amax(-1, keepdim=True) - cfg.token_beam).sum(-1).float().mean()) - 1
        for x, part in zip(log_probs, parts, strict=True)
        for row, n in zip(x, part.encoded.lens.tolist(), strict=True)
    ]

    def in_tensors() -> None:
        hyps["tensors"] = []
        for x, part in zip(log_probs, parts, strict=True):
            start = fusion_start(method, len(x), part.langs)
            own = beam_ctc(x, part.encoded.lens, blank=head.blank, cfg=cfg, start=start)
            hyps["tensors"] += [hyp.tokens for hyp in own]

    @torch.inference_mode()
    def in_python() -> None:
        hyps["python"] = []
        for x, part in zip(log_probs, parts, strict=True):
            own = [lms.get(model.cfg.languages[n] if n >= 0 else "") for n in part.langs.tolist()]
            nbest = reference_ctc(x, part.encoded.lens, head.blank, cfg, own)
            for row, length, candidates in zip(x, part.encoded.lens.tolist(), nbest, strict=True):
                hyps["python"].append(aligned(row[:length], candidates[0][0], head.blank).tokens)

    seconds = in_turns({"tensors": in_tensors, "python": in_python}, args.rounds, clock_of("cpu"))
    differ = sum(a != b for a, b in zip(hyps["tensors"], hyps["python"], strict=True))
    result = {
        "temperature": temperature, "tokens_tried": sum(tried) / len(tried), "differ": differ,
        "ratio": median_ratio(seconds["python"], seconds["tensors"]), "seconds": medians(seconds),
    }  # fmt: skip
    print(f"CTC, 16 prefixes, 6-grams, in tensors against Python: {result}")
    return result


def aligned(log_probs: Tensor, tokens: list[int], blank: int) -> Hypothesis:
    """A text on the best path that spells it."""
    path, scores = align_ctc(log_probs, torch.tensor(tokens, dtype=torch.int64), blank=blank)
    return collapse_ctc(path.tolist(), scores.tolist(), blank=blank)


if __name__ == "__main__":
    main()
