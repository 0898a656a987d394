from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from maya.audio.load import load_cut_audio
from maya.data.table.packed import PackedCuts
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from tests.data.making import make_cuts, make_tokenizer


def test_columns_equal_the_cuts(tmp_path: Path) -> None:
    english, hindi = make_cuts(tmp_path, [0.5, 0.9, 0.4]), make_cuts(tmp_path, [0.7, 0.3], "hi")
    cuts, tokenizer = CutSet.from_cuts([*english, *hindi]), make_tokenizer()
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    encoded = [tokenizer.encode(cut.supervisions[0].text) for cut in cuts]
    for source in (cuts, CutSet.from_file(tmp_path / "cuts.jsonl.gz")):  # in memory, and read lazily
        utterances = Utterances.from_cuts(source, tokenizer, ("en", "ta"))
        assert len(utterances) == 5 and utterances.ids == [cut.id for cut in cuts]
        assert utterances.durations == pytest.approx([0.5, 0.9, 0.4, 0.7, 0.3])
        assert utterances.langs.tolist() == [0, 0, 0, -1, -1]
        for i, cut in enumerate(cuts):
            assert isinstance(utterances.source, PackedCuts) and utterances.source[i] == cut
            assert utterances.tokens(i).tolist() == encoded[i]
            assert utterances.token_counts[i] == len(encoded[i])
            assert utterances.source.load_audio(i).equal(load_cut_audio(cut))


def test_resampled_cuts_survive(tmp_path: Path) -> None:
    cuts = make_cuts(tmp_path, [0.5]).resample(8000).resample(16000)
    utterances = Utterances.from_cuts(cuts, make_tokenizer(), ("en",))
    np.testing.assert_array_equal(utterances.source.load_audio(0), load_cut_audio(next(iter(cuts))))


def test_memory_is_small(tmp_path: Path) -> None:
    utterances = Utterances.from_cuts(make_cuts(tmp_path, [0.2] * 20), make_tokenizer(), ("en",))
    assert isinstance(utterances.source, PackedCuts) and len(utterances.source._bytes) / 20 < 1000


def test_bad_sets_are_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(MayaError, match="set of cuts is empty"):
        Utterances.from_cuts(CutSet.from_cuts([]), tokenizer, ())
    (cut,) = make_cuts(tmp_path, [0.5])
    with pytest.raises(MayaError, match=r"'en-0000' has 0 supervisions"):
        Utterances.from_cuts([cut.drop_supervisions()], tokenizer, ())  # type: ignore[arg-type]
    with pytest.raises(MayaError, match="two utterances with the id 'en-0000'"):
        Utterances.from_cuts([cut, cut], tokenizer, ())  # type: ignore[arg-type]
