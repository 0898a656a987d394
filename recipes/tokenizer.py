"""Stage 2: from the training texts to a tokenizer, with a report on each language. A model with a language
model as head takes that model's tokenizer."""

import argparse
import heapq
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.config import to_dict
from maya.data.report.page import write_run_page
from maya.data.table.table import Table, part_path
from maya.data.table.token_table import TokenTable, token_path, write_tokens
from maya.errors import MayaError
from maya.files import read_json, sha256, write_json
from maya.pages import columns
from maya.recipes.arguments import add_data_and_run, add_experiment, add_force
from maya.recipes.cut_sources import dev_source, require_data, texts_of, training_source
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.markers import content, is_done, mark_done, table_identity, texts_identity
from maya.text.fertility import fertility, fertility_report, fertility_table, without_piece
from maya.text.sample import TextSample, gather
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import load_newest, step_checkpoints

_SAMPLED_IDS = 256  # by which the corpus of a run is recognised
_CLOCK_PROBES = np.geomspace(0.01, 40.0, 100)  # seconds, whose frames tell clocks apart in the stage marker
UNKNOWN = 0.005  # share of a language's characters, not seen before, that a kept tokenizer may lack


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p)
    add_data_and_run(p)
    add_force(p)


def run(args: argparse.Namespace) -> None:
    experiment = load_experiment(args.experiment, args.overrides)
    tokenizer(experiment, args.data, args.run_dir, force=args.force)


def tokenizer(experiment: Experiment, data: Path | None, run: Path, *, force: bool = False) -> None:
    """Train `run`/tokenizer.model on the texts of `data`/train.parquet, and encode them into
    `run`/tokens_train.arrow. `run`/tokenizer.json has for each language its share of the training text,
    fertility and unknown characters, on dev too; `run`/data.html shows it below the report on the data.
    With data.source=lhotse the texts are those of data.cuts, and no tokens are written.

    A head of the model may bring the tokenizer (`HeadConfig.tokenizer`); then none is trained. A run that has
    checkpoints keeps their tokenizer, also with `force`: their weights would not fit another one. Raises
    MayaError where the options differ from those of the kept tokenizer, or where it lacks characters of the
    texts.
    """
    require_data(experiment, data)
    if data is None or experiment.data.source == "lhotse":
        return _tokenizer_of_cuts(experiment, run, force)
    table, dev = (Table.open(part_path(data, part)) for part in ("train", "dev"))
    marker, path, cfg = run / "stage-tokenizer.json", run / "tokenizer.model", experiment.tokenizer
    brought = experiment.model.tokenizer()
    inputs = tokenizer_inputs(experiment, data, brought)
    outputs = (token_path(run, "train"), run / "tokenizer.json")
    complete = all(file.is_file() for file in outputs)
    if is_done(marker, inputs | {"model": content(path)}) and complete and not force:
        print(f"tokenizer: {path} is up to date")
        return
    sample = gather(table.read("language", "text"), lines_per_language=cfg.lines_per_language, seed=cfg.seed)
    ids, name = list(_hashes(table)), str(table.path)
    made = kept_tokenizer(run, cfg, sample, ids, name) or brought or train_tokenizer(sample, cfg)
    run.mkdir(parents=True, exist_ok=True)
    made.save(path)
    clock, fastest = experiment.model.clock, max(experiment.data.speed_perturb)
    tokens = write_tokens(token_path(run, "train"), table, made)
    crowded = count_crowded(table, tokens, clock.frames_of(table.durations, fastest))
    few = {"too_few_frames": {"frame_seconds": clock.seconds, **crowded}}
    dev_sample = gather(dev.read("language", "text"), lines_per_language=1, seed=0)
    table_text = write_report(run, cfg, made, sample, ids, unknown_shares(dev_sample, made), few)
    page = write_run_page(data, run)
    shown = "tokenizer.json" + (f", {page.name}" if page else "")
    print(f"tokenizer: {made.vocab_size} pieces → {path} (report: {shown})")
    print(table_text)
    if short := sum(crowded["ctc"].values()):
        where = " ".join(f"{code} {n}" for code, n in crowded["ctc"].items())
        print(f"{short} utterances have fewer frames than CTC needs for their text: {where}")
    mark_done(marker, inputs | {"model": content(path)})


def _tokenizer_of_cuts(experiment: Experiment, run: Path, force: bool) -> None:
    """`tokenizer` for the texts of data.cuts."""
    source, dev, cfg = training_source(experiment), dev_source(experiment), experiment.tokenizer
    marker, path = run / "stage-tokenizer.json", run / "tokenizer.model"
    inputs = {"cuts": source.identity(), "dev": dev.identity() if dev else None, "options": to_dict(cfg)}
    complete = (run / "tokenizer.json").is_file()
    if is_done(marker, inputs | {"model": content(path)}) and complete and not force:
        print(f"tokenizer: {path} is up to date")
        return
    sample, ids = texts_of(experiment, source)
    brought = experiment.model.tokenizer()
    made = kept_tokenizer(run, cfg, sample, ids, source.name) or brought or train_tokenizer(sample, cfg)
    run.mkdir(parents=True, exist_ok=True)
    made.save(path)
    unknown = unknown_shares(texts_of(experiment, dev)[0], made) if dev is not None else {}
    table_text = write_report(run, cfg, made, sample, ids, unknown)
    print(f"tokenizer: {made.vocab_size} pieces → {path} (report: tokenizer.json)")
    print(table_text)
    mark_done(marker, inputs | {"model": content(path)})


def write_report(
    run: Path, cfg: TokenizerConfig, made: Tokenizer, sample: TextSample, ids: Iterable[int],
    unknown_of_dev: dict[str, float], measured: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Write `run`/tokenizer.json; returns the table of languages for the terminal."""
    languages = fertility(made, sample, cfg)
    report = {
        "sha256": sha256(made.model_bytes),
        "options": to_dict(cfg),
        "utterances": heapq.nsmallest(_SAMPLED_IDS, ids),
        **fertility_report(made, languages, cfg),
        "unknown_characters_of_dev": unknown_of_dev,
    }
    write_json(run / "tokenizer.json", report | (measured or {}))
    return "\n".join(columns(fertility_table(languages)))


def tokenizer_inputs(experiment: Experiment, data: Path, brought: Tokenizer | None) -> dict[str, Any]:
    """What stage 2 depends on, for its marker: the texts, the rows whose frames are counted, the options, and
    the tokenizer that a head brings."""
    fastest = max(experiment.data.speed_perturb)
    inputs = {
        "texts": texts_identity(data, "train"),
        "rows": [table_identity(data, part) for part in ("train", "dev")],
        "options": to_dict(experiment.tokenizer),
        "frames": experiment.model.clock.frames_of(_CLOCK_PROBES, fastest).tolist(),
    }
    return inputs if brought is None else inputs | {"brought": sha256(brought.model_bytes)}


def kept_tokenizer(
    run: Path, cfg: TokenizerConfig, sample: TextSample, ids: Iterable[int], corpus: str
) -> Tokenizer | None:
    """The tokenizer that the checkpoints of a run carry, which says that it is kept; None where there are no
    checkpoints. Raises MayaError where `cfg` asks for another, the texts need another, or the corpus is
    another than the run's. ids: numbers for the ids of its utterances. corpus: its name."""
    checkpoints = step_checkpoints(run)
    if not checkpoints:
        return None
    kept = load_newest([path for _, path in checkpoints])[0].tokenizer
    before = read_json(run / "tokenizer.json")  # the report of the last stage 2
    former = before.get("options", to_dict(cfg) | {"vocab_size": kept.vocab_size})
    ways = "choose another --name for a new run"
    for name, value in to_dict(cfg).items():
        if (was := former.get(name, value)) != value:
            raise MayaError(
                f"{run} has checkpoints of a tokenizer with {name}={was}, and tokenizer.{name}={value} is "
                f"given now; {ways}, or give {was} again"
            )
    if former_ids := set(before.get("utterances", [])):
        common = len(former_ids.intersection(ids))
        if common < len(former_ids) / 2:
            raise MayaError(
                f"{run} has checkpoints that were trained on another corpus than {corpus} holds: of "
                f"{len(former_ids)} of its utterances only {common} are there; {ways}"
            )
    lacking = _lacking(kept, sample, before)
    shares = {code: sum(counts.values()) / sample[code].length for code, counts in lacking.items()}
    named = "; ".join(f"{code} {' '.join(list(counts)[:20])}" for code, counts in lacking.items())
    spelt = any(kept.is_byte(i) for i in range(kept.vocab_size))
    if shares and max(shares.values()) > UNKNOWN and not spelt:
        raise MayaError(
            f"{run} has checkpoints, and their tokenizer has no piece for {max(shares.values()):.1%} of the "
            f"characters of a language in the training texts ({named}); {ways}"
        )
    unknown = f"new characters without a piece ({'spelt in bytes' if spelt else 'unknown'}): {named}"
    print(f"tokenizer: {run} has checkpoints, so their tokenizer of {kept.vocab_size} pieces is kept; "
          + (unknown if lacking else "it covers the training texts"))  # fmt: skip
    return kept


def _hashes(table: Table) -> Iterator[int]:
    """A number for the id of each utterance. The smallest are a sample that does not depend on the order."""
    for (name,) in table.read("id"):
        yield zlib.crc32(name.encode("utf-8", "surrogateescape"))


def _lacking(kept: Tokenizer, sample: TextSample, before: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By language, the characters of the sample without a piece, except those of the last report: counts."""
    lacking = {}
    for code, texts in sorted(sample.items()):
        former = before.get("languages", {}).get(code, {}).get("left_out", {})
        counts = {char: n for char, n in without_piece(kept, texts).items() if char not in former}
        if counts:
            lacking[code] = counts
    return lacking


def unknown_shares(sample: TextSample, tokenizer: Tokenizer) -> dict[str, float]:
    """By language, the share of the characters of texts that have no piece of their own."""
    return {
        code: sum(without_piece(tokenizer, texts).values()) / texts.length
        for code, texts in sorted(sample.items())
    }


def count_crowded(table: Table, tokens: TokenTable, frames: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Utterances by language with fewer `frames` (n,) than tokens, and than CTC needs."""
    codes, languages = table.codes("language")

    def count(short: NDArray[np.bool_]) -> dict[str, int]:
        counts = np.bincount(codes[short], minlength=len(languages)).tolist()
        return {language: n for language, n in sorted(zip(languages, counts, strict=True)) if n}

    return {"transducer": count(tokens.counts > frames), "ctc": count(tokens.ctc_frames > frames)}


def require(path: Path, what_to_do: str) -> Path:
    """`path` if it exists, else MayaError."""
    if not path.exists():
        raise MayaError(f"{path} is missing; {what_to_do}")
    return path
