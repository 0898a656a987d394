"""What tells the training data of a run from other data: saved with every training checkpoint, compared when
training continues."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.files import write_json
from maya.train.distributed import gather_objects, rank

FILE = "training_data.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The identity and size of the data of a run.

    digest: of id, language, text and duration of every row of the train table, in order. table: of the whole
    rows, which also name files with their sizes and times. dev: as digest, of the dev table, "" without one.
    utterances, hours: those trained on. batches_per_pass: of one rank, of the first pass. These three are 0
    for a stream of lhotse cuts, whose digests are described at maya.data.loading.lhotse_cuts.CutSource.
    """

    digest: str
    table: str
    dev: str
    utterances: int
    hours: float
    batches_per_pass: int

    def __str__(self) -> str:
        return f"{self.size}, digest {self.digest[:8]}"

    @property
    def size(self) -> str:
        """For people."""
        return f"{self.utterances} utterances, {self.hours:.2f} h" if self.utterances else "a stream of cuts"

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "TrainingData":
        """What a checkpoint recorded."""
        return cls(**{name: saved[name] for name in cls.__slots__})


def describe_data(
    data: Path, run: Path, table: Table, utterances: Utterances, batches_per_pass: int
) -> TrainingData:
    """The description of prepared data, alike on every rank. `run`/training_data.json keeps it, so that a
    table is hashed once (0.7 s a million rows)."""
    facts: list[str] = []
    if rank() == 0:
        dev = part_path(data, "dev")
        described = TrainingData(
            digest=_recorded_digest(run / FILE, table.digest) or table.content_digest(),
            table=table.digest,
            dev=Table.open(dev).content_digest() if dev.is_file() else "",
            utterances=len(utterances),
            hours=round(float(utterances.durations.sum()) / 3600, 6),
            batches_per_pass=batches_per_pass,
        )
        write_json(run / FILE, asdict(described))
        facts = [json.dumps(asdict(described))]
    return TrainingData.of(json.loads(gather_objects(facts)[0][0]))


def _recorded_digest(path: Path, table_digest: str) -> str:
    """The digest that was computed earlier for the same table; "" if there is none."""
    try:
        recorded = json.loads(path.read_text())
        return str(recorded["digest"]) if table_digest and recorded["table"] == table_digest else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
