"""Stage 5: a checkpoint and a prepared part → hypotheses with token times, and the real-time factor."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

import maya
from maya.config import to_dict
from maya.data.loader import EvalLoader
from maya.data.table import Table, part_path
from maya.data.utterances import Utterances
from maya.decode.recognizer import decode_frames
from maya.recipes.experiment import Experiment
from maya.recipes.markers import is_done, mark_done, stamp
from maya.train.checkpoint import find_checkpoint
from maya.train.runlog import replacing, write_json


def decode(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    split: str = "test",
    checkpoint: Path | None = None,
    force: bool = False,
) -> None:
    """Decode `data`/{split}.parquet greedily into `run`/decode/{split}/hyps.jsonl."""
    table = Table.open(part_path(data, split))
    path = find_checkpoint(checkpoint or run)
    out = run / "decode" / split
    inputs = {
        "checkpoint": f"{path}:{stamp(path)}",
        "data": table.digest,
        "options": to_dict(experiment.decode),
    }
    if is_done(out / "stage.json", inputs) and not force:
        print(f"decode: {out} is up to date")
        return
    recognizer = maya.load(path)
    model, languages = recognizer.model, recognizer.model.cfg.languages
    utterances = Utterances.from_table(table, recognizer.tokenizer, languages)
    entries = {entry.id: entry for entry in table.entries()}
    out.mkdir(parents=True, exist_ok=True)
    began, seconds = time.perf_counter(), 0.0
    loader = EvalLoader(utterances, recognizer.tokenizer, languages,
                        max_seconds=experiment.decode.max_seconds)  # fmt: skip
    with replacing(out / "hyps.jsonl") as partial, partial.open("w") as f, torch.inference_mode():
        for batch in loader:
            batch = batch.to(recognizer.device)
            enc, enc_lens = model.encode(batch.audio, batch.audio_lens, batch.langs)
            hyps = decode_frames(model, enc, enc_lens, method=experiment.decode.method,
                                 max_symbols=experiment.decode.max_symbols)  # fmt: skip
            for name, hyp in zip(batch.ids, recognizer.with_text(hyps), strict=True):
                entry = entries[name]
                hyp.id, hyp.language = name, entry.language
                row = {"ref": entry.text, "speaker": entry.speaker, "duration": entry.duration}
                f.write(json.dumps(asdict(hyp) | row, ensure_ascii=False) + "\n")
            seconds += batch.seconds
    spent = time.perf_counter() - began
    timing = {"audio_seconds": seconds, "seconds": spent, "real_time_factor": spent / seconds}
    write_json(out / "decode.json", {"checkpoint": str(path), "utterances": len(entries)} | timing)
    print(f"decode: {len(entries)} utterances, {seconds / 3600:.2f} h in {spent:.1f} s "
          f"(real-time factor {spent / seconds:.4f}) → {out / 'hyps.jsonl'}")  # fmt: skip
    mark_done(out / "stage.json", inputs)
