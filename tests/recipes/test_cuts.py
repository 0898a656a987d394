"""Training from lhotse cuts: every utterance as often as requested, and exact resume."""

import json
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse import CutSet
from torch import Tensor

from maya.data.plan import Position
from maya.errors import MayaError
from maya.recipes.average import average
from maya.recipes.cuts import batches_from, describe_cuts, open_batches
from maya.recipes.experiment import Experiment
from maya.recipes.tokenizer import tokenizer as tokenizer_stage
from maya.recipes.train import dev_validation, train
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import load_checkpoint
from tests import tiny
from tests.data.lhotse_corpora import write_corpora
from tests.data.making import make_tokenizer
from tests.pair import Pair

START = Position(0, 0)
SAMPLERS = ("plan", "stream", "dynamic_bucketing")
FUNCTIONS = """
import random
from pathlib import Path
from lhotse import CutSet

HERE = Path(__file__).parent

def part(name):
    return CutSet.from_file(HERE / f"{name}.jsonl.gz")

def augmented(epoch):  # two corpora, lazily mixed, at another speed, and half of the cuts with babble
    cuts = CutSet.mux(part("en"), part("hi"), weights=[2, 1], seed=epoch)
    noise = part("dev").drop_supervisions()
    return cuts.perturb_speed(0.9).mix(noise, snr=10, mix_prob=0.5, seed=epoch, preserve_id="left")

def endless(epoch):
    return CutSet.mux(part("en").repeat(), part("hi").repeat(), weights=[3, 1], seed=epoch)

def shar():  # lhotse's own reader, which attaches the audio in memory
    return CutSet.from_shar(in_dir=HERE / "shar")

def unseeded():
    cuts = list(part("en"))
    random.shuffle(cuts)
    return CutSet.from_cuts(cuts)

def nothing():
    return [1, 2]
"""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_corpora(tmp_path_factory.mktemp("corpora"))
    (folder / "mine.py").write_text(FUNCTIONS)
    return folder


def experiment(folder: Path, names: Sequence[str], **options: Any) -> Experiment:
    exp = tiny.experiment()
    exp.data.source, exp.data.cuts = "lhotse", tuple(str(folder / name) for name in names)
    exp.data.plan.max_seconds, exp.tokenizer.vocab_size = 8.0, 36
    for name, value in options.items():
        setattr(exp.data, name, value)
    return exp


Read = list[tuple[Position, list[str], Tensor]]


def read(
    exp: Experiment, folder: Path, count: int, start: Position = START, ranks: tuple[int, int] = (0, 1)
) -> Read:
    """(position after it, ids, audio) of the first `count` batches."""
    made, run = make_tokenizer(), folder
    cuts = open_batches(exp, made, run, ranks)
    batches = batches_from(exp, cuts, made, run)(start)
    rows = [(position, batch.ids, batch.audio) for position, batch in islice(batches, count)]
    batches.close()  # type: ignore[attr-defined]
    return rows


def first_pass(exp: Experiment, folder: Path, ranks: tuple[int, int] = (0, 1)) -> Read:
    rows = read(exp, folder, 60, ranks=ranks)
    end = next(i for i, (position, _, _) in enumerate(rows) if position.epoch == 1)
    return rows[: end + 1]


def counts(rows: Read) -> Counter[str]:
    return Counter(name for _, ids, _ in rows for name in ids)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("names", "workers"),
    [(("shar",), 0), (("shar",), 2), (("shar", "hi.jsonl.gz"), 0), (("en.jsonl.gz", "hi.jsonl.gz"), 2)],
    ids=["shar", "shar-workers", "shar+hi", "en+hi-workers"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_each_utterance_once_per_epoch_and_exact_resume(
    corpora: Path, sampler: str, names: tuple[str, ...], workers: int, ranks: int
) -> None:
    exp = experiment(corpora, names, sampler=sampler, num_workers=workers)
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    passes = [first_pass(exp, corpora, (rank, ranks)) for rank in range(ranks)]
    assert len({len(rows) for rows in passes}) == 1  # as many steps on each rank
    seen = [name for rows in passes for _, ids, _ in rows for name in ids]
    repeated = [name for name in seen if "_dup" in name]  # as in lhotse, if the last step has too few cuts
    assert len(repeated) < ranks
    plain = Counter(name.partition("_sp")[0] for name in seen if name not in repeated)
    assert set(plain.values()) == {1} and len(plain) == (24 if names == ("shar",) else 36)
    whole = read(exp, corpora, len(passes[-1]) + 3, ranks=(ranks - 1, ranks))
    for stop in (0, len(passes[-1]) // 2, len(passes[-1]) - 1):  # also over the end of the pass
        saved = Position.of(json.loads(json.dumps(whole[stop][0].saved())))
        rest = read(exp, corpora, len(whole) - stop - 1, saved, (ranks - 1, ranks))
        assert [row[:2] for row in rest] == [row[:2] for row in whole[stop + 1 :]]
        assert all(torch.equal(a[2], b[2]) for a, b in zip(rest, whole[stop + 1 :], strict=True))


@pytest.mark.parametrize("sampler", ["stream", "dynamic_bucketing"])
@pytest.mark.parametrize("workers", [0, 2])
def test_lazily_augmented_mixture_resumes_exactly(corpora: Path, sampler: str, workers: int) -> None:
    exp = experiment(corpora, ["mine.py:augmented"], sampler=sampler, num_workers=workers)
    whole = first_pass(exp, corpora)
    assert sorted(set(counts(whole).values())) == [1] and len(counts(whole)) == 36
    rest = read(exp, corpora, len(whole) - 3, whole[2][0])
    assert [row[1] for row in rest] == [row[1] for row in whole[3:]]
    assert all(torch.equal(a[2], b[2]) for a, b in zip(rest, whole[3:], strict=True))


@pytest.mark.parametrize("sampler", ["stream", "dynamic_bucketing"])
def test_weights_set_the_shares_of_an_endless_mixture(corpora: Path, sampler: str) -> None:
    exp = experiment(corpora, ["mine.py:endless"], sampler=sampler, buffer_cuts=20)
    seen = Counter(
        name.partition("_repeat")[0]
        for job in islice(open_batches(exp, make_tokenizer(), corpora).jobs(START), 300)
        for name in (cut.id for cut in job.cuts)
    )
    total = sum(seen.values())
    hindi = sum(n for name, n in seen.items() if name.startswith("hi"))
    assert total > 400 and abs(hindi / total - 0.25) < 0.06
    for language in ("en", "hi"):  # all cuts of a corpus equally often, apart from those still in the buffer
        times = [n for name, n in seen.items() if name.startswith(language)]
        assert max(times) - min(times) <= 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resume_with_another_number_of_ranks(corpora: Path, sampler: str) -> None:
    exp = experiment(corpora, ["shar", "hi.jsonl.gz"], sampler=sampler)
    exp.data.plan.max_seconds = 4.0
    before = [read(exp, corpora, 3, ranks=(rank, 2)) for rank in range(2)]
    rest = [row for row in read(exp, corpora, 40, before[0][-1][0]) if row[0].epoch == 0]
    last = read(exp, corpora, len(rest) + 1, before[0][-1][0])[len(rest)]
    seen = sum((counts(rows) for rows in [*before, rest, [last]]), Counter[str]())
    assert len(seen) == 36 and set(seen.values()) == {1}
    again = read(exp, corpora, 2, rest[1][0])  # a position after the change of ranks is resumed, too
    assert [row[1] for row in again] == [row[1] for row in [*rest, last][2:4]]


def test_cuts_with_audio_in_memory_need_the_stream_sampler(corpora: Path) -> None:
    exp = experiment(corpora, ["mine.py:shar"], sampler="stream", num_workers=2)
    rows = first_pass(exp, corpora)
    assert len(counts(rows)) == 24 and set(counts(rows).values()) == {1}
    exp.data.sampler = "plan"
    with pytest.raises(MayaError, match=r"holds its audio in memory.*data.sampler=stream"):
        open_batches(exp, make_tokenizer(), corpora)


def test_changed_order_of_cuts_is_reported(corpora: Path, caplog: pytest.LogCaptureFixture) -> None:
    exp = experiment(corpora, ["mine.py:unseeded"], sampler="stream")
    place = read(exp, corpora, 2)[-1][0]
    read(exp, corpora, 1, place)
    assert "come in another order than before" in caplog.text and "seed" in caplog.text
    caplog.clear()
    exp = experiment(corpora, ["en.jsonl.gz"], sampler="stream")
    read(exp, corpora, 1, read(exp, corpora, 2)[-1][0])
    assert not caplog.text


def test_dropped_cuts_and_refused_options(corpora: Path, tmp_path: Path) -> None:
    exp = experiment(corpora, ["en.jsonl.gz"], sampler="stream", min_seconds=1.2)
    rows = first_pass(exp, tmp_path)
    left_out = {json.loads(line)["id"] for line in (tmp_path / "dropped.jsonl").read_text().splitlines()}
    assert left_out and not left_out & set(counts(rows)) and len(left_out) + len(counts(rows)) == 24
    for options, message in [
        ({"min_seconds": 100.0}, "no cut can be trained on; 'en-0000': .* data takes 100 to inf s"),
        ({"cuts_weights": (1.0, 2.0)}, "2 weights for 1 sets"),
        ({"cuts": ()}, "no cuts are given"),
        ({"cuts": (str(corpora / "mine.py:nothing"),)}, "list, which is not a lhotse CutSet"),
        ({"cuts": (str(corpora / "mine.py:missing"),)}, "has no function missing"),
        ({"cuts": ("nowhere.jsonl",)}, "nowhere.jsonl is no manifest of cuts"),
    ]:
        with pytest.raises(MayaError, match=message):
            read(experiment(corpora, ["en.jsonl.gz"], **options), tmp_path, 1)
    exp = experiment(corpora, ["en.jsonl.gz"])
    exp.data.plan.max_seconds = 0.5
    with pytest.raises(MayaError, match=r"cut 'en-.*' is \d\.\d s long, more than data.plan.max_seconds=0.5"):
        read(exp, tmp_path, 1)


def prepared(folder: Path, run: Path, names: Sequence[str], **options: Any) -> Experiment:
    exp = experiment(folder, names, dev_cuts=(str(folder / "dev.jsonl.gz"),), **options)
    exp.train.steps, exp.train.save_every, exp.train.valid_every = 8, 5, 8
    tokenizer_stage(exp, None, run)
    return exp


def resume_from(run: Path, step: int) -> dict[str, Tensor]:
    """Remove the last checkpoint and the marker of the stage. Returns its weights."""
    last = max((run / "checkpoints").glob("step-*.pt"))
    weights = load_checkpoint(last).weights
    assert int(last.stem.split("-")[1]) == 8 and (run / "checkpoints" / f"step-{step:07d}.pt").is_file()
    last.unlink()
    (run / "stage-train.json").unlink()
    return weights


def same_weights(run: Path, weights: dict[str, Tensor]) -> bool:
    again = load_checkpoint(max((run / "checkpoints").glob("step-*.pt"))).weights
    return again.keys() == weights.keys() and all(torch.equal(again[k], v) for k, v in weights.items())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stages_run_on_cuts_without_a_table(corpora: Path, tmp_path: Path, sampler: str) -> None:
    exp = prepared(corpora, tmp_path, ["shar", "hi.jsonl.gz"], sampler=sampler)
    made = load_tokenizer(tmp_path / "tokenizer.model")
    train(exp, None, tmp_path, cpu=True)
    weights = resume_from(tmp_path, 5)
    train(exp, None, tmp_path, cpu=True)
    assert same_weights(tmp_path, weights)
    assert dev_validation(exp, None, made, exp.languages) is not None
    average(exp, None, tmp_path)
    assert (tmp_path / "averaged.pt").is_file()
    scores = json.loads((tmp_path / "validations.json").read_text())
    assert list(scores) == ["8"]


def test_changed_cuts_are_reported(corpora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exp = prepared(corpora, tmp_path, ["shar", "hi.jsonl.gz"], sampler="stream")
    train(exp, None, tmp_path, cpu=True)
    moved = experiment(corpora, ["en.jsonl.gz", "hi.jsonl.gz"], sampler="stream", dev_cuts=exp.data.dev_cuts)
    moved.train.steps, moved.train.save_every, moved.train.valid_every = 10, 5, 8
    train(moved, None, tmp_path, cpu=True)
    assert "THE TRAINING DATA DIFFER" in caplog.text and "a stream of cuts" in caplog.text


def test_plan_digest_covers_all_cuts(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maya.data.loading.lhotse_cuts._COMPARED_CUTS", 1)
    cuts = list(CutSet.from_file(corpora / "en.jsonl.gz"))
    digests = []
    for text in ("one two", "two one"):  # in the last cut; the file keeps its size
        cuts[-1].supervisions[0].text = text
        CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
        for sampler in ("plan", "stream"):
            exp = experiment(tmp_path, ["cuts.jsonl"], sampler=sampler)
            described = describe_cuts(exp, open_batches(exp, make_tokenizer(), tmp_path), tmp_path)
            digests.append(described.digest)
    assert digests[0] != digests[2] and digests[1] == digests[3]


def _train(rank: int, folder: str, run: str, sampler: str, workers: int) -> None:
    multiprocessing.current_process()._config["daemon"] = False  # so that it may have data workers
    exp = experiment(
        Path(folder), ["shar", "hi.jsonl.gz"], sampler=sampler, num_workers=workers,
        dev_cuts=(f"{folder}/dev.jsonl.gz",),
    )  # fmt: skip
    exp.train.steps, exp.train.save_every, exp.train.valid_every = 8, 5, 8
    train(exp, None, Path(run), cpu=True)


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize(
    ("sampler", "workers"),
    [
        ("plan", 0),
        ("stream", 2),
        ("dynamic_bucketing", 0),
        pytest.param("dynamic_bucketing", 2, marks=pytest.mark.slow),
    ],
)
def test_two_processes_resume_exactly(
    corpora: Path, tmp_path: Path, pair: Pair, sampler: str, workers: int
) -> None:
    prepared(corpora, tmp_path, ["shar", "hi.jsonl.gz"], sampler=sampler)
    pair.run(_train, str(corpora), str(tmp_path), sampler, workers)
    weights = resume_from(tmp_path, 5)
    pair.run(_train, str(corpora), str(tmp_path), sampler, workers)
    assert same_weights(tmp_path, weights)
