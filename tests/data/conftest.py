import pytest

from maya.text.tokenizer import Tokenizer
from tests.data.making import make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()
