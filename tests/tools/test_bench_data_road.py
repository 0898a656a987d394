import json
from pathlib import Path

import pytest

from tests.data.making import write_corpus
from tools.bench.data_road import main, make_data, open_data, page, plan_facts, read_epoch


def assert_whole(folder: Path, workers: list[int], ranks: int) -> None:
    """Every utterance of the training part is read once, in the batches of the plan."""
    made = make_data(folder / "c", folder / "work", vocab_size=60)
    utterances, tokenizer = open_data(made, folder / "work")
    for number in workers:
        epoch = read_epoch(made, utterances, tokenizer, number, ranks)
        assert epoch.extra == 0 and epoch.clips == len(utterances)
        assert epoch.seconds == pytest.approx(float(utterances.durations.sum()), abs=0.01)
        assert epoch.padded >= epoch.seconds and 0 <= epoch.waited <= epoch.took
    facts = plan_facts(made, utterances, ranks)
    assert facts["utterances"] == len(utterances) and set(facts["hours"]) == {"en", "hi"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_files_to_batches(tmp_path: Path, ranks: int) -> None:
    write_corpus(tmp_path / "c")
    assert_whole(tmp_path, [0, 2], ranks)


def test_recorded_speech_in_tars_is_read_once(shared: Path, tmp_path: Path) -> None:
    made = make_data(shared / "corpora" / "indic12", tmp_path, vocab_size=900, take=8)
    utterances, tokenizer = open_data(made, tmp_path)
    assert (tmp_path / "packed" / "or.tar").is_file() and len(utterances) > 60
    epoch = read_epoch(made, utterances, tokenizer, 2, 2)
    assert epoch.extra == 0 and epoch.clips == len(utterances)


@pytest.mark.slow
def test_real_corpus_and_report_pages(shared: Path, tmp_path: Path) -> None:
    corpus, out = str(shared / "corpora" / "indic12"), tmp_path / "out"
    assert main(["--corpus", corpus, "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    result = json.loads((out / "data-road.json").read_text())
    assert [(epoch["workers"], epoch["extra"]) for epoch in result["epochs"]] == [(0, 0), (2, 0)]
    assert (out / "data-road.md").read_text() == page(result)
    drawn = (tmp_path / "work" / "run" / "data.html").read_text()
    assert "Plan of an epoch" in drawn and "Pieces per word" in drawn and "Malayalam (ml)" in drawn
