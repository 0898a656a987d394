"""Stage 5: a checkpoint and a prepared part → hypotheses with token times, and the real-time factor."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import maya
from maya.config import to_dict
from maya.data.loading.loader import EvalLoader
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.recognizer import identify_languages
from maya.encoders.lact.fast_weights import stop_updates
from maya.errors import MayaError
from maya.files import replacing, write_json
from maya.models.hybrid import HybridModel
from maya.recipes.experiment import Experiment
from maya.recipes.markers import (
    audio_identity,
    checkpoint_content,
    is_done,
    mark_done,
    table_identity,
    texts_identity,
)
from maya.recipes.search import choose_method, make_search
from maya.train.checkpoint import find_checkpoint
from maya.train.validate import language_accuracy


def decode(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    split: str = "test",
    into: str = "",
    checkpoint: Path | None = None,
    force: bool = False,
) -> None:
    """Decode `data`/{split}.parquet into `run`/decode/{split}/hyps.jsonl, or `run`/decode/{into}/{split}.

    Raises MayaError for an empty split, and for a method whose head the model lacks or that was not trained.
    """
    table = Table.open(part_path(data, split))
    if not len(table):
        raise MayaError(f"{data} has no {split} set to decode: {table.path.name} has no rows")
    path = find_checkpoint(checkpoint or run)
    out = run / "decode" / into / split
    inputs = _inputs(experiment, data, split, path)
    complete = all((out / name).is_file() for name in ("hyps.jsonl", "decode.json"))
    if is_done(out / "stage.json", inputs) and complete and not force:
        print(f"decode: {out} is up to date")
        return
    recognizer = maya.load(path)
    model, languages = recognizer.model, recognizer.model.cfg.languages
    if not experiment.decode.fast_weight_updates:
        stop_updates(model)
    method, reason = choose_method(experiment.decode.method, recognizer)
    print(f"decode: {split} by {method} ({reason})", flush=True)
    utterances = Utterances.from_table(table, recognizer.tokenizer, languages)
    entries = {entry.id: entry for entry in table.entries()}
    out.mkdir(parents=True, exist_ok=True)
    search = make_search(experiment.decode, data, recognizer)
    began, seconds, identified = time.perf_counter(), 0.0, list[tuple[str, bool]]()
    loader = EvalLoader(utterances, recognizer.tokenizer, languages, sample_rate=recognizer.sample_rate,
                        max_seconds=experiment.decode.max_seconds)  # fmt: skip
    with replacing(out / "hyps.jsonl") as partial, partial.open("w") as f, torch.inference_mode():
        for batch in loader:
            batch = batch.to(recognizer.device)
            heard, enc_lens = model.listen(batch.audio, batch.audio_lens)
            langs, told = _languages(model, heard, enc_lens, batch.langs, experiment.decode.language)
            enc = model.with_language(heard, langs)
            hyps = search(enc, enc_lens, _codes(langs, languages, len(enc)))
            for name, hyp, found in zip(batch.ids, recognizer.with_text(hyps), told, strict=True):
                entry = entries[name]
                hyp.id, hyp.language = name, entry.language
                if found and entry.language in languages:
                    identified.append((entry.language, found["language_found"] == entry.language))
                row = {"ref": entry.text, "speaker": entry.speaker, "duration": entry.duration} | found
                f.write(json.dumps(asdict(hyp) | row, ensure_ascii=False) + "\n")
            seconds += batch.seconds
    facts: dict[str, Any] = {"checkpoint": str(path), "method": method, "method_reason": reason}
    facts |= {"utterances": len(entries), **language_accuracy(identified)}
    _report(out, facts, seconds, time.perf_counter() - began)
    mark_done(out / "stage.json", inputs)


def _report(out: Path, facts: dict[str, Any], audio_seconds: float, spent: float) -> None:
    """Write `out`/decode.json and say how long the decoding took."""
    factor = spent / audio_seconds
    timing = {"audio_seconds": audio_seconds, "seconds": spent, "real_time_factor": factor}
    write_json(out / "decode.json", facts | timing)
    amount = f"{facts['utterances']} utterances, {audio_seconds / 3600:.2f} h"
    print(f"decode: {amount} in {spent:.1f} s (real-time factor {factor:.4f}) → {out / 'hyps.jsonl'}")


def _inputs(experiment: Experiment, data: Path, split: str, checkpoint: Path) -> dict[str, Any]:
    """What hypotheses depend on, for the marker of the stage."""
    cfg = experiment.decode
    with_texts = cfg.method == "ctc_beam" and cfg.lm_order
    return {
        "checkpoint": [str(checkpoint), checkpoint_content(checkpoint)],
        "data": [table_identity(data, split), audio_identity(data, split)],
        "options": to_dict(cfg),
        "lm_texts": texts_identity(data, "train") if with_texts else "",
    }


def _codes(langs: Tensor | None, languages: Sequence[str], rows: int) -> list[str]:
    """Language codes of the rows, "" where none is known."""
    if langs is None:
        return [""] * rows
    return [languages[i] if i >= 0 else "" for i in langs.tolist()]


def _languages(
    model: HybridModel, heard: Tensor, enc_lens: Tensor, known: Tensor, told: str
) -> tuple[Tensor | None, list[dict[str, Any]]]:
    """The languages (B,) to decode in, and for each row what the encoder itself says: `language_found` and
    `language_probability`, where the model tells languages apart."""
    if not model.cfg.language_id_weight:
        if told == "auto":
            model.check_identifies()
        return (known if told == "known" else None), [{} for _ in enc_lens]
    langs, probabilities = identify_languages(model, heard, enc_lens)
    rows = [
        {"language_found": model.cfg.languages[i], "language_probability": p}
        for i, p in zip(langs.tolist(), probabilities.tolist(), strict=True)
    ]
    return {"known": known, "auto": langs, "unknown": None}[told], rows
