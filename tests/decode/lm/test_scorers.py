"""Scorers of language models: sums over texts, languages, words, neural models, errors of other
tokenizers."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.fusion import Fusion, Part, Scorer, select, where
from maya.decode.hypothesis import Hypothesis
from maya.decode.lm.arpa import Arpa, write_arpa
from maya.decode.lm.internal import InternalLM
from maya.decode.lm.kenlm_file import KenLMBinary
from maya.decode.lm.kneser_ney import NGram
from maya.decode.lm.lstm import LSTMConfig, LSTMLanguageModel, batch_of, load_lstm, save_lstm
from maya.decode.lm.make_fusion import ngram_scorer
from maya.decode.lm.neural import LSTMScorer, neural_scorer
from maya.decode.lm.phrases import hot_words, parse_phrase, read_phrases, token_phrases
from maya.decode.lm.rescoring import rescored, text_scores
from maya.decode.lm.token_ngram import estimated, named_arpa
from maya.decode.lm.units import units_of
from maya.decode.lm.vocabulary import Vocabulary, vocabulary
from maya.decode.lm.word_ngram import WordNGram
from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig, Predictor, PredictorConfig
from maya.heads.transducer.stateless import StatelessConfig, StatelessPredictor
from maya.text.tokenizer import Tokenizer, TokenizerConfig

SENTENCES = [
    "the cat sat on the mat", "a catalog of cats", "the dog sat on a log", "call doctor who today",
    "sundar lives in trivandrum", "the mat is on the dog",
]  # fmt: skip


@pytest.fixture(scope="module")
def vocab() -> Vocabulary:
    tokenizer = Tokenizer.train({"en": SENTENCES * 3}, TokenizerConfig(vocab_size=60))
    return vocabulary(tokenizer, tokenizer.vocab_size + 1, tokenizer.vocab_size)


def ids(vocab: Vocabulary, text: str) -> list[int]:
    return vocab.tokenizer.encode(text)


def total(scorer: Scorer, text: list[int], langs: Tensor | None = None) -> float:
    state, score = scorer.start(1, langs, None), 0.0
    for token in text:
        score += float(scorer.scores(state)[0, token])
        state = scorer.advance(state, torch.tensor([token]))
    return score + float(scorer.final(state)[0])


def ngram(vocab: Vocabulary, order: int = 4, sentences: list[str] = SENTENCES) -> NGram:
    return NGram([ids(vocab, s) for s in sentences], vocab.tokenizer.vocab_size, order=order)


def word_arpa() -> tuple[Arpa, NGram, dict[str, int]]:
    words = sorted({word for s in SENTENCES for word in s.split()})
    index = {word: i for i, word in enumerate(words)}
    lm = NGram([[index[w] for w in s.split()] for s in SENTENCES], len(words), order=3)
    return lm.to_arpa(words), lm, index


def test_ngrams_of_languages(vocab: Vocabulary) -> None:
    models = {"": ngram(vocab), "en": ngram(vocab, 3, SENTENCES[:3])}
    scorer = estimated(models, vocab, ["hi", "en"])
    for text in map(lambda s: ids(vocab, s), SENTENCES):
        for lang, code in ((0, ""), (1, "en"), (-1, "")):
            assert total(scorer, text, torch.tensor([lang])) == pytest.approx(
                models[code].score(text), abs=1e-4
            )
    silent = estimated({"en": models["en"]}, vocab, ["hi", "en"])
    assert total(silent, ids(vocab, SENTENCES[0]), torch.tensor([0])) == 0.0


def test_rows_do_not_depend_on_each_other(vocab: Vocabulary) -> None:
    scorer = estimated({"": ngram(vocab)}, vocab, [])
    texts = [ids(vocab, s) for s in (*SENTENCES, "")]
    assert text_scores(scorer, texts) == pytest.approx([total(scorer, text) for text in texts], abs=1e-4)


@pytest.mark.parametrize("units", ["pieces", "ids", "nemo"])
def test_units_of_files_are_recognised(units: Any, vocab: Vocabulary, tmp_path: Path) -> None:
    lm = ngram(vocab)
    names = {
        "pieces": named_arpa(lm, vocab).words[: lm.vocab_size],
        "ids": [str(i) for i in range(lm.vocab_size)],
        "nemo": [chr(100 + i) for i in range(lm.vocab_size)],
    }
    write_arpa(lm.to_arpa(names[units]), tmp_path / "lm.arpa")
    scorer = ngram_scorer(tmp_path / "lm.arpa", vocab)
    for sentence in SENTENCES:
        assert total(scorer, ids(vocab, sentence)) == pytest.approx(lm.score(ids(vocab, sentence)), abs=1e-4)


def test_folder_has_a_file_for_each_language(vocab: Vocabulary, tmp_path: Path) -> None:
    write_arpa(named_arpa(ngram(vocab), vocab), tmp_path / "all.arpa")
    write_arpa(named_arpa(ngram(vocab, 2), vocab), tmp_path / "en.arpa.gz")
    scorer = ngram_scorer(tmp_path, vocab, ["hi", "en"])
    text = ids(vocab, SENTENCES[1])
    assert total(scorer, text, torch.tensor([1])) == pytest.approx(ngram(vocab, 2).score(text), abs=1e-4)
    assert total(scorer, text, torch.tensor([0])) == pytest.approx(ngram(vocab).score(text), abs=1e-4)
    with pytest.raises(MayaError, match=r"no ARPA file of a language of this model; expected ta.arpa"):
        (tmp_path / "empty").mkdir()
        ngram_scorer(tmp_path / "empty", vocab, ["ta"])


def test_word_model_scores_words_however_they_are_spelt(vocab: Vocabulary) -> None:
    arpa, lm, index = word_arpa()
    scorer = WordNGram(arpa, vocab)
    pieces = vocab.ids()
    for sentence in SENTENCES:
        expected = lm.score([index[word] for word in sentence.split()])
        letters = [pieces[c] for c in "▁" + sentence.replace(" ", "▁")]
        assert total(scorer, ids(vocab, sentence)) == pytest.approx(expected, abs=1e-4)
        assert total(scorer, letters) == pytest.approx(expected, abs=1e-4)
    # An unknown word costs what <unk> costs, and its first letters steer no search.
    assert total(scorer, ids(vocab, "the cats")) > total(scorer, ids(vocab, "the cag"))


def test_unknown_and_other_tokenizers_are_refused(vocab: Vocabulary, tmp_path: Path) -> None:
    lm = NGram([[0, 1, 2]], 3, order=2)
    cases = {
        ("▁qq", "▁vv", "zz"): "tokens of another tokenizer",
        ("1", "2", "700"): "token ids up to 700",
        ("ഒന്ന്", "രണ്ട്", "മൂന്ന്"): "does not fit this model",
    }
    for words, message in cases.items():
        with pytest.raises(MayaError, match=message):
            units_of(lm.to_arpa(words), vocab, "x.arpa")
    assert units_of(word_arpa()[0], vocab, "x.arpa") == "words"


def test_kenlm_binary(vocab: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "kenlm":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr("maya.decode.lm.kenlm_file.importlib.import_module", missing)
    with pytest.raises(MayaError, match="give the ARPA file that the binary was built from"):
        ngram_scorer(tmp_path / "lm.bin", vocab)


def test_kenlm_scorer_equals_the_automaton(vocab: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    write_arpa(named_arpa(ngram(vocab), vocab), tmp_path / "lm.arpa")
    names = named_arpa(ngram(vocab), vocab).words[: vocab.tokenizer.vocab_size]
    scorer = KenLMBinary(tmp_path / "lm.arpa", [*names, ""])  # KenLM reads both kinds of file
    for sentence in SENTENCES:
        text = ids(vocab, sentence)
        assert total(scorer, text) == pytest.approx(ngram(vocab).score(text), abs=1e-4)


def test_lstm_steps_equal_its_forward_pass_and_travel(vocab: Vocabulary, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LSTMLanguageModel(LSTMConfig(hidden=16, layers=2), vocab.tokenizer.vocab_size).eval()
    texts = [ids(vocab, s) for s in SENTENCES]
    losses = model.losses(*batch_of(texts))
    assert text_scores(LSTMScorer(model, vocab), texts) == pytest.approx((-losses).tolist(), abs=1e-3)
    save_lstm(tmp_path, model, vocab.tokenizer)
    again = neural_scorer(tmp_path, vocab)
    assert text_scores(again, texts) == pytest.approx((-losses).tolist(), abs=1e-3)
    other = Tokenizer.train({"en": SENTENCES * 3}, TokenizerConfig(vocab_size=50))
    with pytest.raises(MayaError, match="another tokenizer"):
        load_lstm(tmp_path, other)
    with pytest.raises(MayaError, match="no neural language model"):
        neural_scorer(tmp_path / "none", vocab)


def test_causal_model_equals_its_own_loss(vocab: Vocabulary, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = vocab.tokenizer.vocab_size + 2
    cfg = transformers.LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=size - 2, eos_token_id=size - 1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(cfg).eval()
    model.save_pretrained(tmp_path)
    scorer = neural_scorer(tmp_path, vocab)
    texts = [ids(vocab, s) for s in SENTENCES]
    expected = []
    for text in texts:
        row = torch.tensor([[size - 2, *text, size - 1]])
        log_probs = model(input_ids=row).logits.detach()[0, :-1].float().log_softmax(-1)
        expected.append(float(log_probs.gather(1, row[0, 1:, None]).sum()))
    assert text_scores(scorer, texts) == pytest.approx(expected, abs=1e-3)
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(MayaError, match="another tokenizer"):
        neural_scorer(tmp_path, vocab)


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_internal_language_model(kind: str) -> None:
    torch.manual_seed(0)
    stateless = kind == "stateless"
    predictor: Any = StatelessPredictor(StatelessConfig(hidden=8), 5) if stateless else Predictor(
        PredictorConfig(hidden=8, layers=2), 5
    )  # fmt: skip
    joint = Joint(JointConfig(hidden=8), 6, 8, 5, 3)
    scorer = InternalLM(predictor.eval(), joint.eval(), 5)
    tokens = torch.tensor([[2, 0, 4]])
    out = joint.project_predictor(predictor(tokens))
    logits = joint.split(joint.output(joint.project_encoder(torch.zeros(1, 4, 6)), out))[0][..., :5]
    expected = logits.log_softmax(-1)[0]
    state = scorer.start(1, None, None)
    for u in range(4):
        assert torch.allclose(scorer.scores(state)[0, :5], expected[u], atol=1e-5)
        if u < 3:
            state = scorer.advance(state, tokens[:, u])
    twice = select(state, torch.tensor([0, 0]))
    both = where(torch.tensor([True, False]), twice, scorer.start(2, None, None))
    assert torch.allclose(scorer.scores(both)[:, :5], torch.stack([expected[3], expected[0]]), atol=1e-5)


def test_rescoring_changes_the_order(vocab: Vocabulary) -> None:
    good, bad = ids(vocab, "the cat sat"), ids(vocab, "the sat cat")
    hyp = Hypothesis(tokens=bad, search_score=-1.0, alternatives=[Hypothesis(tokens=good, search_score=-1.5)])
    scorer = estimated({"": ngram(vocab)}, vocab, [])
    (same,) = rescored([hyp], Fusion([Part(weight=0.0, scorer=scorer)], blank=vocab.blank))
    assert same.tokens == bad
    (best,) = rescored([hyp], Fusion([Part(weight=1.0, scorer=scorer)], blank=vocab.blank))
    assert best.tokens == good and [a.tokens for a in best.alternatives] == [bad]
    assert best.search_score == pytest.approx(-1.5 + total(scorer, good), abs=1e-4)


def test_phrases_are_read_and_written_as_tokens(vocab: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "hot.txt"
    path.write_text("# names\n\nsundar\ndoctor who :2.5\ncat*\n")
    phrases = read_phrases(path)
    assert [(p.text, p.weight, p.open) for p in phrases] == [
        ("sundar", 1.0, False), ("doctor who", 2.5, False), ("cat", 1.0, True)
    ]  # fmt: skip
    (tokens,) = token_phrases(phrases[1], vocab)
    assert list(tokens.tokens) == ids(vocab, "doctor who") and tokens.loans[0] == 2.5
    assert parse_phrase("ratio 3:2").text == "ratio 3:2"
    scorer = hot_words([["cat"]], vocab)
    assert total(scorer, ids(vocab, "the cat sat")) > 0
    assert total(scorer, ids(vocab, "a catalog")) == 0
    upper = token_phrases(parse_phrase("Sundar"), vocab, ["en"])  # in the model's normal form
    assert list(upper[0].tokens) == ids(vocab, "sundar")


def test_phrases_that_cannot_be_used_are_named(vocab: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="cannot write the hot word 'ഒന്ന്'"):
        hot_words([["ഒന്ന്"]], vocab)
    path = tmp_path / "hot.txt"
    for text, message in (("\n", "are empty"), ("cat :-1\n", "line 1: the weight .* must be above 0"),
                          (" :2\n", "line 1: the hot word ':2' has no text")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(MayaError, match=message):
            read_phrases(path)
    with pytest.raises(MayaError, match="cannot read"):
        read_phrases(tmp_path / "none.txt")


def test_script_without_spaces_matches_inside(vocab: Vocabulary) -> None:
    texts = {"zh": ["北京大学在北京", "我去北京大学"] * 4}
    tokenizer = Tokenizer.train(texts, TokenizerConfig(vocab_size=20))
    chinese = vocabulary(tokenizer, tokenizer.vocab_size + 1, tokenizer.vocab_size)
    scorer = hot_words([["大学"]], chinese)
    assert total(scorer, tokenizer.encode("我在大学去")) > 0
