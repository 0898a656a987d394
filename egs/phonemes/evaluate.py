"""Phonemes of the test set of prepared data by one or more runs, with intervals over speakers.

    python -m egs.phonemes.evaluate RUN --data exp/phonemes/spoken/data
    python -m egs.phonemes.evaluate RUN RUN RUN --data ...    also their mean, and their vote

PER; the rate of articulatory distance, if panphon is installed; and where the data hold what people judged,
the correlation of 1 - PER against the canonical phonemes with the scores of utterances, of goodness of
pronunciation with those of phonemes, and the AUC of goodness for phonemes that were said wrongly.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import maya
from egs.phonemes.learners import RIGHT, SCORES
from egs.phonemes.timit import SIZES, fold
from maya.align.goodness import goodness
from maya.data.loading.loader import EvalLoader
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.hypothesis import Word
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import UnitCTC
from maya.pages import columns
from maya.score.pronunciation import articulatory_errors, correlation, late_fusion, phoneme_errors
from maya.score.report import percent, span
from maya.score.rover import rover
from maya.score.tracks import auc_interval, roc_auc
from maya.score.wer import interval

HEAD = "phonemes"
MEAN, VOTE = "mean of probabilities", "vote"
Scores = dict[str, NDArray[np.float64]]  # by utterance, (S, V + 1) log-probabilities


def head_of(recognizer: Recognizer) -> UnitCTC:
    """Raises MayaError for a run without a head of phonemes."""
    head = recognizer.model.head(HEAD)
    if not isinstance(head, UnitCTC):
        raise MayaError(
            f"the head {HEAD} is of kind {head.cfg.kind!r}; evaluate runs with one of kind unit_ctc"
        )
    return head


@torch.inference_mode()
def emissions(recognizer: Recognizer, data: Path) -> tuple[Scores, dict[str, dict[str, str]]]:
    """The log-probabilities of each utterance of the test set, of its own steps alone, and its labels."""
    model, head = recognizer.model, head_of(recognizer)
    table = Table.open(part_path(data, "test"))
    utterances = Utterances.from_table(table, recognizer.tokenizer, model.cfg.languages)
    loader = EvalLoader(
        utterances,
        recognizer.tokenizer,
        model.cfg.languages,
        sample_rate=recognizer.sample_rate,
        max_seconds=60.0,
    )
    scores: Scores = {}
    labels: dict[str, dict[str, str]] = {}
    for batch in loader:
        encoded = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
        steps = (encoded.lens_on_host * head.cfg.upsampling).tolist()
        for i, own in enumerate(head.log_probs(encoded).cpu().numpy()):
            scores[batch.ids[i]] = own[: steps[i]].astype(np.float64)
            labels[batch.ids[i]] = {name: values[i] or "" for name, values in batch.labels.items()}
    return scores, labels


def fused(systems: Sequence[Scores], heads: Sequence[UnitCTC]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The phonemes by the mean of the systems' probabilities, where their units are the same, and by vote."""
    names = list(systems[0])
    if len({head.cfg.units for head in heads}) == 1:
        yield MEAN, {n: best_path(heads[0], late_fusion([own[n] for own in systems])) for n in names}
    else:
        print("the runs have different units: their probabilities are not fused", file=sys.stderr)
    texts = [{n: best_path(head, own[n]) for n in names} for own, head in zip(systems, heads, strict=True)]
    yield VOTE, {n: [w.text for w in rover([[Word(text=u) for u in own[n]] for own in texts])] for n in names}


def best_path(head: UnitCTC, log_probs: NDArray[np.float64]) -> list[str]:
    return head.units_of(log_probs.argmax(1).tolist())


def measures(
    said: dict[str, list[str]], labels: dict[str, dict[str, str]], size: int | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Cells of a table, and the figures: PER and articulatory distance. size: TIMIT's phones to fold to."""
    names = list(labels)
    refs, hyps = [labels[n][HEAD].split() for n in names], [said[n] for n in names]
    speakers = [labels[n].get("speaker") or n for n in names]
    if size is not None:
        refs, hyps = ([fold(row, size, merge=True) for row in rows] for rows in (refs, hyps))
    stats = phoneme_errors(refs, hyps)
    bounds = interval(stats, blocks=speakers)
    counts = [stats.substitutions, stats.deletions, stats.insertions]
    cells = [f"{percent(stats.rate)} {span(bounds)}", " ".join(map(str, counts))]
    result: dict[str, Any] = {"per": [stats.rate, bounds.low, bounds.high], "sub_del_ins": counts}
    if size is None:  # TIMIT's phones are no IPA
        try:
            own = articulatory_errors(refs, hyps, blocks=speakers)
        except MayaError as error:
            print(f"no articulatory distance: {error}", file=sys.stderr)
            return [*cells, "-"], result
        cells.append(f"{percent(own.rate)} {span(own.interval)}")
        result |= {"articulatory": [own.rate, own.interval.low, own.interval.high], "unknown": own.unknown}
    return cells, result


def agreement(scores: Scores, head: UnitCTC, labels: dict[str, dict[str, str]]) -> dict[str, Any]:
    """How far a run agrees with human judges; empty where the data hold no canonical phonemes."""
    names = [n for n in labels if labels[n].get("canonical")]
    if not names:
        return {}
    speakers = [labels[n].get("speaker") or n for n in names]
    canonical = [labels[n]["canonical"].split() for n in names]
    stats = phoneme_errors(canonical, [best_path(head, scores[n]) for n in names])
    accuracy = (1 - stats.utterance_errors / np.maximum(1, stats.utterance_ref_lengths)).tolist()
    result: dict[str, Any] = {}
    for score in SCORES:
        if all(labels[n].get(score) for n in names):
            pair = correlation(accuracy, [float(labels[n][score]) for n in names], blocks=speakers)
            result[f"1 - PER and {score}"] = shown(f"1 - PER and {score}", pair)
    values: dict[str, list[Any]] = defaultdict(list)
    for name, phones, speaker in zip(names, canonical, speakers, strict=True):
        ids = np.array([head.numbers.get(phone, -1) for phone in phones])
        judged = [float(score) for score in labels[name]["phone_scores"].split()]
        if (ids < 0).any() or len(judged) != len(phones):
            values["skipped"].append(name)
            continue
        try:
            gop = goodness(scores[name], ids, head.blank).gop
        except MayaError:  # more phonemes than steps
            values["skipped"].append(name)
            continue
        values["gop"] += gop.tolist()
        values["judged"] += judged
        values["speaker"] += [speaker] * len(judged)
    if values["skipped"]:
        print(f"goodness of pronunciation leaves out {len(values['left'])} utterances", file=sys.stderr)
    if values["gop"]:
        pair = correlation(values["gop"], values["judged"], blocks=values["speaker"])
        result["GOP and phones"] = shown("GOP and the scores of phonemes", pair)
        right, wrong = (
            [-g for g, j in zip(values["gop"], values["judged"], strict=True) if (j < RIGHT / 2) == bad]
            for bad in (False, True)
        )
        bounds = auc_interval(right, wrong, replicates=200)
        area = roc_auc(right, wrong)
        print(f"GOP, AUC for {len(wrong)} wrong phonemes: {area:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]")
        result["GOP, AUC"] = [area, bounds.low, bounds.high]
    return result


def shown(title: str, pair: Any) -> dict[str, list[float]]:
    """Print a correlation; returns its figures."""
    result = {}
    for name in ("pearson", "spearman"):
        value, bounds = getattr(pair, name), getattr(pair, f"{name}_interval")
        print(f"{title}, {name}: {value:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]")
        result[name] = [value, bounds.low, bounds.high]
    return result


def evaluate(runs: Sequence[Path], data: Path, size: int | None = None) -> dict[str, Any]:
    """Print a table with a line for each run and each fusion; returns the figures."""
    systems, heads, result = [], [], cast(dict[str, Any], {})
    lines = [["run", "PER %", "sub del ins", "articulatory %"]]
    for run in runs:
        recognizer = maya.load(run)
        scores, labels = emissions(recognizer, data)
        systems.append(scores)
        heads.append(head_of(recognizer))
        said = {name: best_path(heads[-1], own) for name, own in scores.items()}
        cells, figures = measures(said, labels, size)
        lines.append([run.name, *cells])
        result[run.name] = figures | agreement(scores, heads[-1], labels)
    if len(runs) > 1:
        for name, said in fused(systems, heads):
            cells, result[name] = measures(said, labels, size)
            lines.append([name, *cells])
    speakers = len({own.get("speaker") for own in labels.values()})
    print(f"{len(labels)} utterances of {speakers} speakers")
    print("\n".join(columns(lines)))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m egs.phonemes.evaluate", description=about, allow_abbrev=False
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="run folders or checkpoints")
    parser.add_argument("--data", type=Path, required=True, help="prepared data with the test set")
    parser.add_argument("--fold", type=int, choices=SIZES[1:], help="of TIMIT: score on so many phones")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        result = evaluate(args.runs, args.data, args.fold)
    except MayaError as error:
        sys.exit(f"error: {error}")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
