"""Sets of lhotse cuts: manifests, Shar read in place, users' functions, and the text of a cut."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lhotse import CutSet, MonoCut
from lhotse.utils import fastcopy

from maya.audio.load import load_cut_audio
from maya.data.loading.lhotse_cuts import CutPart, CutSource, CutTranscripts, UnusableCut, shar_in_place
from maya.errors import MayaError
from tests.data.lhotse_corpora import write_corpora
from tests.data.test_plan_sampler import synthetic_cut


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("corpora"))


def test_shar_read_in_place_equals_lhotse(corpora: Path) -> None:
    by_lhotse = list(CutSet.from_shar(in_dir=corpora / "shar"))
    in_place = list(shar_in_place(corpora / "shar", shuffle=False))
    assert [cut.id for cut in in_place] == [cut.id for cut in by_lhotse] and len(in_place) == 24
    for cut, other in zip(in_place, by_lhotse, strict=True):
        assert torch.equal(load_cut_audio(cut), load_cut_audio(other))
        assert cut.supervisions == other.supervisions and cut.recording.sources[0].type == "file"


def test_shards_are_shuffled_each_pass(corpora: Path) -> None:
    orders = [[cut.id for cut in shar_in_place(corpora / "shar", epoch=epoch, seed=1)] for epoch in (0, 1, 1)]
    assert orders[0] != orders[1] == orders[2] and set(orders[0]) == set(orders[1])


def test_missing_audio_in_shar_is_reported(corpora: Path, tmp_path: Path) -> None:
    for name in ("cuts.000000.jsonl.gz", "recording.000001.tar"):
        target = name.replace("000001", "000000")
        (tmp_path / target).write_bytes((corpora / "shar" / name).read_bytes())
    with pytest.raises(MayaError, match=r"recording.000000.tar has no member 'en-0000\.\*'"):
        list(shar_in_place(tmp_path))
    with pytest.raises(MayaError, match="holds no Shar"):
        shar_in_place(tmp_path / "nothing")


def part(corpora: Path, name: str) -> CutPart:
    return CutPart(name=str(corpora / name))


def test_weights_change_the_order_and_every_cut_is_read_once(corpora: Path) -> None:
    parts = (part(corpora, "en.jsonl.gz"), part(corpora, "hi.jsonl.gz"))
    even, heavy = (CutSource(parts=parts, weights=weights) for weights in ((), (1.0, 50.0)))
    for source in (even, heavy):
        assert sorted(cut.id for cut in source.open()) == sorted(
            cut.id for p in parts for cut in p.open(0, 0)
        )
    assert [cut.id[:2] for cut in heavy.open()][:12].count("hi") >= 11
    assert [cut.id for cut in even.open(0)] != [cut.id for cut in even.open(1)]


def test_identity_depends_on_content_not_on_path(corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "hi.jsonl.gz").write_bytes((corpora / "hi.jsonl.gz").read_bytes())
    original, copied, other = (
        CutSource(parts=(p,)).identity()
        for p in (part(corpora, "hi.jsonl.gz"), part(tmp_path, "hi.jsonl.gz"), part(corpora, "en.jsonl.gz"))
    )
    assert original[0] == copied[0] != other[0]
    weighted = CutSource(parts=(part(corpora, "hi.jsonl.gz"),), weights=(2.0,)).identity()
    assert weighted[0] != original[0] and weighted[1] == original[1]


def fails() -> CutSet:
    raise KeyError("speaker")


def recordings() -> CutSet:
    return CutSet([1, 2])


@pytest.mark.parametrize(
    ("function", "message"),
    [(fails, "cannot read cut number 1: KeyError: 'speaker'"), (recordings, "type int, which are no cuts")],
)
def test_errors_of_the_users_functions_are_named(function: Callable[[], CutSet], message: str) -> None:
    source = CutSource(parts=(CutPart(name="./mine.py:cuts", function=function),))
    with pytest.raises(MayaError, match=f"./mine.py:cuts: .*{message}"):
        list(source.open())


def test_a_damaged_manifest_names_the_cut(corpora: Path, tmp_path: Path) -> None:
    whole = list(part(corpora, "hi.jsonl.gz").open(0, 0))
    CutSet.from_cuts(whole[:3]).to_file(tmp_path / "cuts.jsonl")
    with (tmp_path / "cuts.jsonl").open("a") as file:
        file.write('{"id": "cut \n')
    with pytest.raises(MayaError, match=r"cuts.jsonl: cannot read cut number 4: JSONDecodeError"):
        list(CutSource(parts=(part(tmp_path, "cuts.jsonl"),)).open())


def cut_of(text: str | None, language: str | None) -> MonoCut:
    cut = synthetic_cut(0, 2.0)
    cut.supervisions = [fastcopy(cut.supervisions[0], text=text, language=language)]
    return cut


def test_texts_are_normalised_and_languages_are_codes() -> None:
    read = CutTranscripts(languages=("en", "hi")).read
    assert read(cut_of("Hello, World!", "English")) == ("en", "hello world")
    assert read(cut_of("एक।", "hi-IN")) == ("hi", "एक")
    assert CutTranscripts(languages=("en",)).read(cut_of("One", None)) == ("en", "one")
    both = cut_of("Two words", "en")
    first = fastcopy(both.supervisions[0], id="first", start=-1.0, text="Before:")
    both.supervisions = [*both.supervisions, first]
    assert read(both) == ("en", "before two words")
    for cut, message in [
        (cut_of("a", None), "has no language, and the model has several"),
        (cut_of("a", "de"), "language is 'de'"), (cut_of("a", "qqqq"), "unknown language 'qqqq'"),
        (cut_of("?!", "en"), "text is empty"),
        (cut_of(None, "en"), "text is empty"), (both.drop_supervisions(), "no supervision"),
    ]:  # fmt: skip
        with pytest.raises(UnusableCut, match=message):
            read(cut)
    both.supervisions[1].language = "hi"
    with pytest.raises(UnusableCut, match="several languages"):
        read(both)
