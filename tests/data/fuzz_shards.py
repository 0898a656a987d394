"""Corpora in shards and tables for the fuzzer: Shar, NeMo's tarred sets, Hugging Face's data sets."""

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Damage = Callable[[bytes, random.Random], bytes]


def write_shards(
    folder: Path, rows: list[dict[str, Any]], odd: Any, rng: random.Random, damaged: Damage
) -> tuple[str, bytes]:
    """Write a corpus in one of these forms. Returns (name, bytes) of its last file, not yet written."""
    form = rng.choice(["shar", "tarred", "saved", "parquet"])
    if form in ("saved", "parquet"):
        return _table(folder, rows, odd, rng, damaged, saved=form == "saved")
    tar = folder / "a.tar"
    data = tar.read_bytes() if tar.stat().st_size < 1 << 20 else b""
    (folder / {"shar": "recording.000000.tar", "tarred": "audio_0.tar"}[form]).write_bytes(data)
    lines: list[dict[str, Any]] = []
    for row in rows:
        audio, own = str(row["audio"]), {"text": row["text"], "language": row["language"], "duration": 0.3}
        if form == "tarred":
            lines.append(
                own | {"audio_filepath": audio, "shard_id": rng.choice([0, 0, 0, odd]), "offset": odd}
            )
        else:
            supervision = own | {"id": row["id"], "start": odd}
            cut: dict[str, Any] = {"id": audio.rpartition(".")[0], "duration": 0.3, "recording": {}}
            cut["supervisions"] = [supervision]
            lines.append(cut)
    text = "\n".join(map(json.dumps, lines)).encode()
    if form == "tarred":
        return "tarred_audio_manifest.json", text
    return "cuts.000000.jsonl.gz", gzip.compress(text if rng.random() < 0.5 else damaged(text, rng))


def _table(
    folder: Path, rows: list[dict[str, Any]], odd: Any, rng: random.Random, damaged: Damage, saved: bool
) -> tuple[str, bytes]:
    sounds = [path.read_bytes() for path in folder.glob("loose.*")]
    audio = [
        {"bytes": rng.choice([*sounds, b"", None]), "path": rng.choice(["a.wav", "../secret.wav", "", None])}
        for _ in rows
    ]
    columns: dict[str, Any] = {
        "audio": pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "text": ["one two"] * len(rows),
        "language": ["en"] * len(rows),
        "speaker": pa.array([rng.choice([0, 1, None]) for _ in rows], pa.int64()),
    }
    if isinstance(odd, (str, int, float)) and not isinstance(odd, bool) and rng.random() < 0.5:
        columns["id"] = [str(odd).encode("utf-8", "replace").decode()] * len(rows)
    table, file = pa.table(columns), io.BytesIO()
    if not saved:
        pq.write_table(table, file)
        return "train.parquet", file.getvalue()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    state = json.dumps({"_data_files": [{"filename": rng.choice(["d.arrow", "d.arrow", odd])}]}).encode()
    (folder / "state.json").write_bytes(state if rng.random() < 0.8 else damaged(state, rng))
    (folder / "dataset_info.json").write_bytes(b"{}")
    return "d.arrow", file.getvalue()
