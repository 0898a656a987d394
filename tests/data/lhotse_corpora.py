"""Two small corpora of lhotse cuts, on disk: "en" as a manifest and a Shar folder, "hi" as a manifest."""

from pathlib import Path

import numpy as np
from lhotse import CutSet

from tests.data.making import make_cuts


def write_corpora(folder: Path, en: int = 24, hi: int = 12) -> Path:
    """Write en.jsonl.gz, hi.jsonl.gz, dev.jsonl.gz, and the cuts of en in shar/ with five cuts a shard."""
    rng = np.random.default_rng(0)
    english = make_cuts(folder, rng.uniform(0.9, 1.7, en + 4).round(2).tolist())
    hindi = make_cuts(folder, rng.uniform(0.9, 1.7, hi + 4).round(2).tolist(), "hi")
    english.subset(first=en).to_file(folder / "en.jsonl.gz")
    hindi.subset(first=hi).to_file(folder / "hi.jsonl.gz")
    CutSet.from_cuts([*english.subset(last=4), *hindi.subset(last=4)]).to_file(folder / "dev.jsonl.gz")
    (folder / "shar").mkdir()
    english.subset(first=en).to_shar(folder / "shar", fields={"recording": "flac"}, shard_size=5)
    return folder
