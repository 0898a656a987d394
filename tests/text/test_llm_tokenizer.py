"""The tokenizer of a language model behind Maya's interface, and the prompt around the speech."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maya.errors import MayaError
from maya.heads.language_model import load_tokenizer
from maya.text.llm_tokenizer import MAGIC, LLMTokenizer, prompt_ids
from maya.text.load import load_tokenizer as read_file
from maya.text.load import tokenizer_from_bytes
from tests import tiny_llm

transformers = pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
TEXT = "नमस्ते दुनिया, hello"


def auto(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_round_trip_through_ids_and_bytes(tmp_path: Path) -> None:
    made = load_tokenizer(str(tiny_llm.make(tmp_path)))
    ids = made.encode(TEXT)
    assert len(ids) == len(TEXT.encode()) and made.vocab_size == 256 + len(tiny_llm.SPECIAL)
    assert ids == auto(tmp_path)(TEXT, add_special_tokens=False).input_ids
    assert made.encode_batch([TEXT, ""]) == [ids, []]
    for again in (tokenizer_from_bytes(made.model_bytes), pickle.loads(pickle.dumps(made))):
        assert isinstance(again, LLMTokenizer) and again.encode(TEXT) == ids
    assert made.decode(ids) == TEXT
    assert made.decode([tiny_llm.SPECIAL.index("<bos>"), *made.encode(" a"), made.vocab_size - 1]) != ""
    assert made.unk_id == -1 and made.scores(ids) == [0.0] * len(ids)
    assert made.pieces(made.encode("ab")) == ["a", "b"] and not made.is_byte(ids[0])


def test_a_prompt_without_chat_template(tmp_path: Path) -> None:
    made = auto(tiny_llm.make(tmp_path))
    hindi = prompt_ids(made, "Write the {language} speech:", "Hindi")
    assert made.decode(hindi.before) == "<bos>Write the Hindi speech: "
    assert made.decode(hindi.after) == "\n" and hindi.end == made.eos_token_id
    unknown = prompt_ids(made, "Write the {language} speech:", "")
    assert made.decode(unknown.before) == "<bos>Write the speech: "


def test_chat_template_is_applied_once(tmp_path: Path) -> None:
    made = auto(tiny_llm.make(tmp_path, chat=True))
    asked = prompt_ids(made, "Write the {language} speech:", "Tamil")
    assert made.decode(asked.before) == "<bos><turn>user\nWrite the Tamil speech: "
    assert made.decode(asked.after) == "<end>\n<turn>assistant\n"
    assert asked.end == made.convert_tokens_to_ids("<end>")  # the template's end of a turn, not <eos>


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    bare = SimpleNamespace(chat_template=None, bos_token=None, eos_token_id=None, name_or_path="some/model")
    with pytest.raises(MayaError, match="some/model: the tokenizer has no token that ends a text"):
        prompt_ids(bare, "x", "")


def test_a_missing_tokenizer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="no tokenizer.json that can be loaded"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": ', b"\xff\xfe"])
def test_damaged_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.model").write_bytes(MAGIC + content)
    with pytest.raises(MayaError, match=r"cut\.model: this is not the tokenizer of a language model"):
        read_file(tmp_path / "cut.model")


def test_a_damaged_byte_is_not_replaced(tmp_path: Path) -> None:
    made = load_tokenizer(str(tiny_llm.make(tmp_path)))
    damaged = made.model_bytes.replace("Ġ".encode(), b"\xff\xff")
    assert damaged != made.model_bytes
    with pytest.raises(MayaError, match="this is not the tokenizer of a language model"):
        tokenizer_from_bytes(damaged)
