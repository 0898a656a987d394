"""Batches of lhotse cuts: unreadable audio, replacements, and evaluation."""

from itertools import islice
from pathlib import Path

import pytest
from lhotse import CutSet
from lhotse.cut import Cut

from maya.data.loading.lhotse_cuts import CutPart, CutSource, CutTranscripts
from maya.data.loading.lhotse_loader import (
    CutEvalLoader,
    CutJob,
    CutLoader,
    CutReader,
    CutStream,
    StreamedCuts,
)
from maya.data.plan import PlanConfig, Position
from maya.data.plan.stream import StreamSampler
from maya.errors import MayaError
from tests.data.lhotse_corpora import write_corpora
from tests.data.making import make_tokenizer

START = Position(0, 0)


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    return write_corpora(tmp_path)


def cuts_of(folder: Path) -> list[Cut]:
    return list(CutSet.from_file(folder / "en.jsonl.gz"))


def reader(**options: bool) -> CutReader:
    return CutReader(CutTranscripts(languages=("en", "hi")), make_tokenizer(), sample_rate=16000, **options)


def job(cuts: list[Cut]) -> CutJob:
    return CutJob(position=Position(0, 1), epoch=0, cuts=cuts)


def test_a_batch_holds_audio_tokens_and_languages(corpora: Path) -> None:
    cuts, read = cuts_of(corpora)[:3], reader()
    batch = read[job(cuts)].checked().batch
    assert batch.ids == [cut.id for cut in cuts] and batch.langs.tolist() == [0, 0, 0]
    assert batch.audio_lens.tolist() == [cut.num_samples for cut in cuts]
    texts = [cut.supervisions[0].text for cut in cuts]
    tokens = [row[:n].tolist() for row, n in zip(batch.tokens, batch.token_lens.tolist(), strict=True)]
    assert [read.tokenizer.decode(row) for row in tokens] == texts


def test_an_unreadable_batch_repeats_the_last_readable_cut(corpora: Path) -> None:
    cuts = cuts_of(corpora)
    for name in ("en-0001", "en-0002"):
        (corpora / f"{name}.wav").unlink()
    with pytest.raises(MayaError, match="en-0001"):
        reader()[job(cuts[:2])].checked()
    read = reader(may_skip=True)
    with pytest.raises(MayaError, match="none of the 2 utterances of the first batch can be read"):
        read[job(cuts[1:3])].checked()
    made = read[job(cuts[:2])]
    assert made.batch.ids == ["en-0000"] and [skipped.id for skipped in made.skipped] == ["en-0001"]
    made = read[job(cuts[1:3])]
    assert made.batch.ids == ["en-0000"] and len(made.skipped) == 2
    assert reader(may_skip=True, stand_in=False)[job(cuts[1:3])].is_empty


def test_too_many_unreadable_cuts_stop_the_loader(corpora: Path, tmp_path: Path) -> None:
    source = CutSource(parts=(CutPart(name=str(corpora / "en.jsonl.gz")),))
    plan = PlanConfig(max_seconds=6.0)
    cuts = StreamedCuts(
        CutStream(source, lambda cut: None),
        lambda stream, rank, ranks: StreamSampler(stream, plan, rank=rank, world_size=ranks),
        rank=0, world_size=1,
    )  # fmt: skip
    for number in range(4):
        (corpora / f"en-{number:04d}.wav").unlink()
    log = tmp_path / "skipped.jsonl"
    allowed = CutLoader(cuts, reader(may_skip=True), start=START, max_skipped=0.0005, skip_log=log)
    assert sum(batch.size for _, batch in islice(allowed, 5)) > 8  # 5 of the first 10 000 may be missing
    strict = CutLoader(cuts, reader(may_skip=True), start=START, max_skipped=0.00025, skip_log=log)
    with pytest.raises(MayaError, match=r"3 utterances cannot be read .* more than data.max_skipped=0.00025"):
        list(islice(strict, 12))


def test_evaluation_reads_each_cut_once_over_all_ranks(corpora: Path) -> None:
    cuts = cuts_of(corpora)
    ranks = [
        CutEvalLoader(cuts, reader(stand_in=False), max_seconds=6.0, rank=rank, world_size=2)
        for rank in range(2)
    ]
    seen = [name for loader in ranks for batch in loader for name in batch.ids]
    assert sorted(seen) == sorted(cut.id for cut in cuts)
    assert ranks[0].references[cuts[0].id] == cuts[0].supervisions[0].text
    with pytest.raises(MayaError, match="two cuts .* have the same id"):
        CutEvalLoader([cuts[0], cuts[0]], reader(), max_seconds=6.0)
