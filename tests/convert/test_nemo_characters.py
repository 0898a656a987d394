"""NeMo's character models: labels in the yaml, no tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.convert import from_nemo, to_nemo
from maya.convert.nemo.archive import NemoArchive
from maya.errors import MayaError
from maya.text.characters import CharacterTokenizer, characters_from_bytes
from maya.text.load import tokenizer_from_bytes
from tests.convert.archives import changed, recognizer

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", "<ok>"]
KINDS: dict[str, dict[str, Any]] = {
    "EncDecCTCModel": {"transducer": "none", "ctc_weight": 1.0},
    "EncDecRNNTModel": {"transducer": "rnnt", "ctc_weight": 0.0},
    "EncDecHybridRNNTCTCModel": {"encoder.subsampling": "striding", "encoder.conv_kernel": 31},  # Conformer
}


def test_texts_are_encoded_as_nemos_parser_does() -> None:
    tokenizer = CharacterTokenizer(LABELS)
    ids = tokenizer.encode("it's 3 <ok> x")
    assert [LABELS[i] for i in ids] == ["i", "t", "'", "s", " ", " ", "<ok>", " ", "x"]
    assert tokenizer.decode(ids) == "it's  <ok> x" and tokenizer.pieces(ids[3:5]) == ["s", "▁"]
    again = tokenizer_from_bytes(tokenizer.model_bytes)
    assert isinstance(again, CharacterTokenizer) and again.labels == tokenizer.labels
    for labels in ([], ["a", "a"], ["a", ""]):
        with pytest.raises(MayaError, match="texts, each once"):
            CharacterTokenizer(labels)
    with pytest.raises(MayaError, match="not a character tokenizer"):
        characters_from_bytes(tokenizer.model_bytes[:-3])


@pytest.mark.parametrize("target", KINDS)
def test_they_load_and_are_written_back(target: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = recognizer(CharacterTokenizer(LABELS), **KINDS[target])  # type: ignore[arg-type]
    to_nemo(model, tmp_path / "a.nemo")
    with NemoArchive(tmp_path / "a.nemo") as archive:
        assert archive.config["target"].endswith(f".{target}") and "tokenizer" not in archive.config
        assert archive.config["labels"] == LABELS
    again = maya.load(tmp_path / "a.nemo")
    audio = torch.randn(16000) * 0.1
    (first,), (second,) = model.transcribe([audio]), again.transcribe([audio])
    assert first.tokens == second.tokens and first.text == second.text
    assert second.text == "".join(LABELS[i] for i in second.tokens).strip()
    assert [w.text for w in second.words] == second.text.split()


def test_bad_character_archives_are_refused(tmp_path: Path) -> None:
    model = recognizer(CharacterTokenizer(LABELS), **KINDS["EncDecCTCModel"])  # type: ignore[arg-type]
    to_nemo(model, tmp_path / "a.nemo")

    def refused(change: Any, sentence: str) -> None:
        path = changed(tmp_path / "a.nemo", tmp_path / "b.nemo", config=change)
        with pytest.raises(MayaError, match=sentence):
            from_nemo(path)

    def without(config: dict[str, Any]) -> None:
        config.pop("labels")
        config["decoder"].pop("vocabulary")

    refused(without, "has no labels")
    refused(lambda c: c["decoder"].update(vocabulary=LABELS[:-2]), "the vocabulary of the CTC head is 27")
    refused(lambda c: c["decoder"].update(vocabulary=["a", "a"]), "texts, each once")
    refused(
        lambda c: c["encoder"].update(_target_="nemo.collections.asr.modules.ConvASREncoder"),
        "encoder is a ConvASREncoder; Maya supports ConformerEncoder",
    )
