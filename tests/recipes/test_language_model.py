"""Language models of prepared texts: one a language, and one of all for an utterance of unknown language."""

from pathlib import Path

import pytest

from maya.data.table.table import Table
from maya.recipes.experiment import Experiment
from maya.recipes.language_model import language_models
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


def test_each_language_knows_its_own_texts_best(data: Path, tokenizer: Tokenizer) -> None:
    lms = language_models(data, tokenizer, 4)
    assert set(lms) == {"", "en", "hi"}
    for language, text in Table.open(data / "train.parquet").read("language", "text"):
        ids = tokenizer.encode(text)
        other = "hi" if language == "en" else "en"
        assert lms[language].score(ids) > lms[""].score(ids) > lms[other].score(ids)
