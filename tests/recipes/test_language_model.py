"""Language models of prepared texts: one a language, and one of all for an utterance of unknown language."""

from pathlib import Path

import pytest
import torch

from maya.data.table import Table
from maya.decode.recognizer import Recognizer, decode_frames
from maya.errors import MayaError
from maya.models.hybrid import HybridConfig, HybridModel
from maya.recipes import presets
from maya.recipes.experiment import DecodeConfig, Experiment
from maya.recipes.language_model import language_models, make_search
from maya.recipes.prepare import prepare
from maya.text.tokenizer import Tokenizer
from tests.data.making import make_tokenizer, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    write_corpus(folder / "c")
    prepare(Experiment(name="test", languages=("en", "hi")), folder / "c", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def recognizer(tokenizer: Tokenizer, **settings: object) -> Recognizer:
    cfg: HybridConfig = presets.tiny()
    cfg.vocab_size, cfg.languages = tokenizer.vocab_size, ("en", "hi")
    for name, value in settings.items():
        setattr(cfg, name, value)
    torch.manual_seed(0)
    return Recognizer(model=HybridModel(cfg).eval(), tokenizer=tokenizer, device=torch.device("cpu"))


def test_each_language_knows_its_own_texts_best(data: Path, tokenizer: Tokenizer) -> None:
    lms = language_models(data, tokenizer, 4)
    assert set(lms) == {"", "en", "hi"}
    for language, text in Table.open(data / "train.parquet").read("language", "text"):
        ids = tokenizer.encode(text)
        other = "hi" if language == "en" else "en"
        assert lms[language].score(ids) > lms[""].score(ids) > lms[other].score(ids)


def test_the_method_chooses_the_decoder(data: Path, tokenizer: Tokenizer) -> None:
    made = recognizer(tokenizer)
    enc, lens = torch.randn(2, 9, made.model.cfg.encoder.d_model), torch.tensor([9, 4])
    for method in ("transducer", "ctc"):
        found = make_search(DecodeConfig(method=method), data, made)(enc, lens, ["en", ""])
        assert found == decode_frames(made.model, enc, lens, method=method)
    beam = make_search(DecodeConfig(method="ctc_beam"), data, made)(enc, lens, ["en", ""])
    without = make_search(DecodeConfig(method="ctc_beam", lm_order=0), data, made)(enc, lens, ["en", ""])
    assert len(beam) == len(without) == 2
    assert [h.tokens for h in beam] != [h.tokens for h in without]


def test_beam_search_needs_a_ctc_head(data: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(MayaError, match="no CTC head"):
        make_search(DecodeConfig(method="ctc_beam"), data, recognizer(tokenizer, ctc_weight=0.0))
