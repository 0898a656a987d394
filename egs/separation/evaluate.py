"""How well a run separates the mixtures of the test set.

    python -m egs.separation.evaluate RUN --data exp/separation/voices/data --out RUN

Writes separation.json, and separation.html with audio. SI-SDRi, PESQ and STOI are of mixtures that are cut to
the shorter utterance; error rates, with --recogniser, are of mixtures in which nobody is cut. Speakers that
are in the training data are left out. Intervals are 95 % bootstraps that draw the first speakers of mixtures.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maya
from maya.audio.load import resample
from maya.data.loading.loader import EvalLoader
from maya.data.loading.mixing import MixingConfig
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.files import write_json, writing
from maya.models.separation import separate
from maya.pages import Html, columns, html_table, page
from maya.recipes.recorded import experiment_of
from maya.score.page.audio import CLIP_RATE, player
from maya.score.separation import MEASURES, SeparationScores, means, separation_scores
from maya.score.wer import wer

_CLIPS = 6  # mixtures on the page
_SECONDS = 30.0  # of a batch


def unseen_rows(data: Path, part: str = "test") -> tuple[Table, np.ndarray]:
    """The table of a part, and the rows of speakers who are not in the training data."""
    test, train = Table.open(part_path(data, part)), Table.open(part_path(data, "train"))
    trained = {entry.speaker for entry in train.entries()}
    rows = [i for i, entry in enumerate(test.entries()) if entry.speaker not in trained]
    if not rows:
        raise MayaError(f"all speakers of {test.path} are in the training data too")
    return test, np.array(rows)


def mixtures(model: Recognizer, data: Path, mixing: MixingConfig) -> Iterator[dict[str, Any]]:
    """Each test mixture with its id, speaker, text, sources (K, N), and estimates (K, N)."""
    test, rows = unseen_rows(data)
    utterances = Utterances.from_table(test, model.tokenizer, (), rows)
    texts = {entry.id: entry.text for entry in test.entries(rows.tolist())}
    rate = model.model.cfg.features.sample_rate
    loader = EvalLoader(
        utterances, model.tokenizer, (), sample_rate=rate, mixing=mixing, max_seconds=_SECONDS
    )  # fmt: skip
    for batch in loader:
        estimates = separate(model.model, batch.audio, batch.audio_lens)
        assert batch.sources is not None
        for row, size in enumerate(batch.audio_lens.tolist()):
            yield {
                "id": batch.ids[row], "speaker": batch.labels["speaker"][row], "text": texts[batch.ids[row]],
                "mixture": batch.audio[row, :size], "sources": batch.sources[row, :, :size],
                "estimates": estimates[row, :, :size],
            }  # fmt: skip


def word_errors(
    separator: Recognizer, recogniser: Recognizer, data: Path, mixing: MixingConfig
) -> dict[str, float]:
    """WER of the first speaker: in the mixture, in the estimate of that speaker, and in the clean source."""
    rate, own = separator.model.cfg.features.sample_rate, recogniser.model.cfg.features.sample_rate
    refs: list[str] = []
    audio: dict[str, list[torch.Tensor]] = {"mixture": [], "separated": [], "clean": []}
    for item in mixtures(separator, data, replace(mixing, mode="max")):
        order = separation_scores(item["estimates"], item["sources"], item["mixture"], rate).order
        versions = (item["mixture"], item["estimates"][order[0]], item["sources"][0])
        for name, x in zip(audio, versions, strict=True):
            audio[name].append(resample(x / max(1.0, float(x.abs().max())), rate, own))
        refs.append(item["text"])
    hyps = {name: [hyp.text for hyp in recogniser.transcribe(rows)] for name, rows in audio.items()}
    return {name: wer(refs, texts).rate for name, texts in hyps.items()}


def clip(item: dict[str, Any], scores: SeparationScores, rate: int) -> list[Any]:
    """A row of the page: the mixture, each source and its estimate."""

    def play(x: torch.Tensor) -> Html:
        return player(resample(x, rate, CLIP_RATE))

    pairs = zip(item["sources"], (item["estimates"][i] for i in scores.order), strict=True)
    cells = [play(x) for pair in pairs for x in pair]
    return [item["id"], f"{scores.values['si_sdri']:.1f}", play(item["mixture"]), *cells]


def error_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{rate:.1%}") for name, rate in results["wer"].items()]


def evaluate(run: Path, data: Path, recogniser: Path | None, perceptual: bool) -> tuple[dict[str, Any], str]:
    """The results, and the page."""
    separator = maya.load(run, "cpu")
    mixing = experiment_of(run, None, []).data.mixing
    rate = separator.model.cfg.features.sample_rate
    scores: list[SeparationScores] = []
    speakers: list[str] = []
    clips: list[list[Any]] = []
    for item in mixtures(separator, data, mixing):
        made = separation_scores(
            item["estimates"], item["sources"], item["mixture"], rate, perceptual=perceptual
        )  # fmt: skip
        scores.append(made)
        speakers.append(item["speaker"])
        if len(clips) < _CLIPS and item["speaker"] not in speakers[:-1]:
            clips.append(clip(item, made, rate))
    table = means(scores, speakers)
    rows = [
        (MEASURES[name], f"{value:.3g}", f"{interval.low:.3g} … {interval.high:.3g}")
        for name, (value, interval) in table.items()
    ]
    print("\n".join(columns([("measure", "mean", "95 % interval"), *rows])))
    results: dict[str, Any] = {
        "mixtures": len(scores), "speakers": len(set(speakers)), "sample_rate": rate,
        "measures": {n: {"mean": v, "low": i.low, "high": i.high} for n, (v, i) in table.items()},
    }  # fmt: skip
    if recogniser is not None:
        results["wer"] = word_errors(separator, maya.load(recogniser, "cpu"), data, mixing)
        print("\n".join(columns([("audio", "WER"), *error_rows(results)])))
    heads = [f"{kind} {k}" for k in range(1, mixing.sources + 1) for kind in ("source", "estimate")]
    html = page(
        f"Separation: {run.name}",
        [
            f"<p>{len(scores)} mixtures of {len(set(speakers))} speakers that training did not hear, "
            f"{rate} Hz.</p>",
            html_table(("measure", "mean", "95 % interval"), rows),
            html_table(("mixture", "SI-SDRi, dB", "mixture", *heads), clips),
            html_table(("audio", "WER"), error_rows(results)) if recogniser else "",
        ],
    )
    return results, html


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.separation.evaluate",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, required=True, help="prepared data")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for separation.json and separation.html"
    )
    parser.add_argument(
        "--recogniser", type=Path, metavar="RUN", help="for word error rates before and after"
    )
    parser.add_argument("--perceptual", action="store_true", help="PESQ and STOI too (maya-asr[separation])")
    args = parser.parse_args(argv)
    try:
        results, html = evaluate(args.run, args.data, args.recogniser, args.perceptual)
        write_json(args.out / "separation.json", results)
        with writing(args.out / "separation.html") as partial:
            partial.write_text(html, encoding="utf-8")
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
