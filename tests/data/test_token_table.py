import pickle
from pathlib import Path

import numpy as np
import pytest

from maya.data.corpus.manifest import read_manifest
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.alignable import ctc_frames
from maya.data.table.table import Table, write_table
from maya.data.table.token_table import open_tokens, token_path, tokens_of, write_tokens
from maya.data.table.utterances import EncodedTexts, Utterances
from maya.errors import MayaError
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from tests.data.making import WORDS, write_corpus


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    write_corpus(tmp_path / "c", per_speaker=1)
    kept, _ = probe(tmp_path / "c", read_manifest(tmp_path / "c/manifest.jsonl"), ProbeConfig())
    return [*kept[:-1], kept[-1]._replace(text="")]  # nothing to encode


def make_table(folder: Path, entries: list[Entry]) -> Table:
    write_table(folder / "train.parquet", entries)
    return Table.open(folder / "train.parquet")


def test_token_tables_hold_the_encoded_texts(
    tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer
) -> None:
    many = [entries[i % 10]._replace(id=str(i)) for i in range(20_000)]  # more than one chunk of encoding
    table = make_table(tmp_path, many)
    token_table = write_tokens(token_path(tmp_path, "train"), table, tokenizer)
    assert len(token_table) == 20_000 and list(tmp_path.glob("*.partial")) == []
    for row in (*range(10), 16_383, 16_384, 19_999):
        expected = tokenizer.encode(many[row].text)
        assert token_table[row].tolist() == expected and token_table[row].dtype == np.int32
        assert token_table.counts[row] == len(expected) and token_table.ctc_frames[row] == ctc_frames(
            expected
        )
    for copy in (open_tokens(token_table.path, table, tokenizer), pickle.loads(pickle.dumps(token_table))):
        assert copy[9].tolist() == token_table[9].tolist() and (copy.counts == token_table.counts).all()
    with pytest.raises(IndexError):
        token_table[20_000]


def test_tokens_of_another_table_or_tokenizer_are_refused(
    tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer
) -> None:
    path, table = tmp_path / "tokens.arrow", make_table(tmp_path, entries)
    with pytest.raises(MayaError, match=r"there are no tokens .*tokens\.arrow; run stage 2"):
        open_tokens(path, table, tokenizer)
    write_tokens(path, table, tokenizer)
    other = train_tokenizer({"en": WORDS["en"] * 3}, TokenizerConfig(vocab_size=20))
    with pytest.raises(MayaError, match="of another table than .*, or of another tokenizer"):
        open_tokens(path, table, other)
    changed = make_table(tmp_path, [entries[0]._replace(text="two two"), *entries[1:]])
    with pytest.raises(MayaError, match="of another table than"):
        open_tokens(path, changed, tokenizer)
    assert tokens_of(path, changed, tokenizer)[0].tolist() == tokenizer.encode("two two")
    open_tokens(path, changed, tokenizer)


def test_damaged_token_tables_are_refused(tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer) -> None:
    path, table = tmp_path / "tokens.arrow", make_table(tmp_path, entries)
    write_tokens(path, table, tokenizer)
    data = path.read_bytes()
    for part in (0, 10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:part])
        with pytest.raises(MayaError, match="cannot be read: it is truncated or damaged"):
            open_tokens(path, table, tokenizer)
    write_tokens(path, table, tokenizer)
    assert path.read_bytes() == data


@pytest.mark.parametrize("some", [None, [7, 0, 9]])
def test_utterances_of_a_table_equal_those_of_its_cuts(
    tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer, some: list[int] | None
) -> None:
    """This holds for tokens of a tokenizer or a token table, for all rows or some."""
    table, rows = make_table(tmp_path, entries), None if some is None else np.array(some)
    expected = Utterances.from_cuts(table.cuts(), tokenizer, ("hi", "ta"))
    numbers = range(len(table)) if some is None else some
    for tokens in (tokenizer, write_tokens(tmp_path / "tokens.arrow", table, tokenizer)):
        utterances = Utterances.from_table(table, tokens, ("hi", "ta"), rows)
        assert len(utterances) == len(numbers)
        for i, row in enumerate(numbers):
            assert (
                utterances.ids[i] == expected.ids[row] and utterances.durations[i] == expected.durations[row]
            )
            assert utterances.langs[i] == expected.langs[row]
            assert utterances.token_counts[i] == expected.token_counts[row]
            assert utterances.tokens(i).tolist() == expected.tokens(row).tolist()
            assert utterances.source.load_audio(i).equal(expected.source.load_audio(row))
            assert utterances.labels([i]) == expected.labels([row])
        assert utterances.ids[:2] == [expected.ids[row] for row in numbers][:2]
        again = pickle.loads(pickle.dumps(utterances))  # as a spawned worker receives it
        assert again.tokens(1).tolist() == utterances.tokens(1).tolist() and again.source.load_audio(1).equal(
            utterances.source.load_audio(1)
        )


def test_an_empty_table_is_refused(tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer) -> None:
    with pytest.raises(MayaError, match="has no utterance for this"):
        Utterances.from_table(make_table(tmp_path, []), tokenizer, ("hi",))
    with pytest.raises(MayaError, match="has no utterance for this"):
        Utterances.from_table(make_table(tmp_path, entries), tokenizer, ("hi",), np.array([], np.int64))


def test_a_text_is_encoded_in_its_language(
    tmp_path: Path, entries: list[Entry], tokenizer: Tokenizer
) -> None:
    both = AggregateTokenizer({"hi": tokenizer, "en": tokenizer})
    mixed = [entry._replace(language=("hi", "en")[i % 2]) for i, entry in enumerate(entries)]
    table = make_table(tmp_path, mixed)
    token_table = write_tokens(token_path(tmp_path, "train"), table, both)
    encoded = EncodedTexts([entry.text for entry in mixed], [entry.language for entry in mixed], both)
    batch = [encoded[i].tolist() for i in range(len(mixed))]
    for row, entry in enumerate(mixed):
        expected = [(row % 2) * tokenizer.vocab_size + i for i in tokenizer.encode(entry.text)]
        assert token_table[row].tolist() == batch[row] == expected
    in_memory = Utterances.from_table(table, both, ("hi", "en"))
    assert [in_memory.tokens(i).tolist() for i in range(len(in_memory))] == batch
