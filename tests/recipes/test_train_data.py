"""The rows that training uses: those that can be aligned, and some of each language for validation."""

from pathlib import Path

import numpy as np
import pytest

from maya.data.corpus.manifest import read_manifest
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.table import Table, write_table
from maya.data.table.token_table import token_path, write_tokens
from maya.errors import MayaError
from maya.heads import ClassifyConfig
from maya.models.hybrid import hybrid
from maya.recipes.experiment import Experiment
from maya.recipes.train import check_labels, drop_infeasible, shared_tokens, thin, usable
from tests.data.making import make_tokenizer, write_corpus


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = tmp_path_factory.mktemp("c")
    write_corpus(folder, per_speaker=2)
    kept, _ = probe(folder, read_manifest(folder / "manifest.jsonl"), ProbeConfig())
    return kept


def make_table(folder: Path, entries: list[Entry]) -> Table:
    write_table(folder / "train.parquet", entries)
    return Table.open(folder / "train.parquet")


def test_validation_rows_are_spread_over_the_table(tmp_path: Path, entries: list[Entry]) -> None:
    table = make_table(tmp_path, entries)  # ten in English, then ten in Hindi
    assert thin(table, 3).tolist() == [0, 4, 9, 10, 14, 19]
    assert thin(table, 99).tolist() == list(range(20))
    assert thin(make_table(tmp_path, []), 3).tolist() == []


def test_rows_that_ctc_cannot_align_are_dropped(tmp_path: Path, entries: list[Entry]) -> None:
    long = [e._replace(text="one " * (1 + 4 * (i % 4))) for i, e in enumerate(entries)]
    table, tokenizer, cfg = make_table(tmp_path, long), make_tokenizer(), hybrid()
    tokens = write_tokens(token_path(tmp_path, "train"), table, tokenizer)
    rows, dropped = drop_infeasible(table, tokens, cfg, 1.1)
    fits = [
        cfg.clock.frames(int(round(e.duration * 16000) / 1.1)) >= tokens.ctc_frames[i]
        for i, e in enumerate(long)
    ]
    assert rows is not None and rows.tolist() == np.flatnonzero(fits).tolist()
    assert 0 < len(rows) < 20 and [d["id"] for d in dropped] == [
        e.id for e, fit in zip(long, fits, strict=True) if not fit
    ]
    assert "frames needed for" in dropped[0]["reason"]
    del cfg.heads["ctc"]
    assert drop_infeasible(table, tokens, cfg, 1.1) == (None, [])


def test_rows_outside_the_length_limits_are_dropped(tmp_path: Path, entries: list[Entry]) -> None:
    table, tokenizer, exp = make_table(tmp_path, entries), make_tokenizer(), Experiment(name="lengths")
    exp.model.heads = {}
    tokens = write_tokens(token_path(tmp_path, "train"), table, tokenizer)
    assert usable(table, tokens, exp) == (None, [])
    lengths = np.sort(table.durations)
    exp.data.min_seconds, exp.data.max_seconds = float(lengths[5]), float(lengths[-5])
    rows, dropped = usable(table, tokens, exp)
    assert rows is not None and len(rows) + len(dropped) == 20 and 0 < len(rows) < 20
    assert all(lengths[5] <= s <= lengths[-5] for s in table.durations[rows])
    assert {d["id"] for d in dropped} == set(table.ids) - {table.ids[row] for row in rows.tolist()}
    assert "s, and data takes" in dropped[0]["reason"]


def test_tokens_of_other_data_are_rebuilt(tmp_path: Path, entries: list[Entry]) -> None:
    tokenizer = make_tokenizer()
    shared_tokens(tmp_path, make_table(tmp_path, entries), tokenizer)
    changed = make_table(tmp_path, [entries[0]._replace(text="two two"), *entries[1:]])
    assert shared_tokens(tmp_path, changed, tokenizer)[0].tolist() == tokenizer.encode("two two")


def test_missing_label_is_refused_before_training(tmp_path: Path, entries: list[Entry]) -> None:
    cfg = hybrid()
    cfg.heads["mood"] = ClassifyConfig(label="emotion", classes=("glad", "sad"))
    with pytest.raises(MayaError, match=r"head mood needs the label 'emotion', and no utterance of .*train"):
        check_labels(cfg, make_table(tmp_path, entries))
    labelled = [*entries[:-1], entries[-1]._replace(labels={"emotion": "sad"})]
    check_labels(cfg, make_table(tmp_path, labelled))
    check_labels(hybrid(), make_table(tmp_path, entries))
