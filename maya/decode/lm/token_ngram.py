"""N-grams over the tokens of a model, one for all utterances or one for each language."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from maya.decode.fusion import State
from maya.decode.lm.arpa import BEGIN, END, UNKNOWN, Arpa, Grams
from maya.decode.lm.automaton import MISSING, NGramAutomaton
from maya.decode.lm.kneser_ney import NGram
from maya.decode.lm.units import token_words
from maya.decode.lm.vocabulary import Vocabulary


class TokenNGram(nn.Module):
    """A scorer (see `maya.decode.fusion.Scorer`) by n-grams over tokens; its state is that of the automaton.

    models: by language; the one of "" is for utterances in other languages and without one. A token that a
    model lacks is <unk>. Without a model of "" other utterances have scores of 0.
    """

    words_of_tokens: Tensor
    model_of_language: Tensor

    def __init__(
        self, models: Mapping[str, Arpa], words: Sequence[str], languages: Sequence[str] = ()
    ) -> None:
        """words (V,): what the models call each token; "" for blank. languages: of the recogniser, in
        order."""
        super().__init__()
        common = (*dict.fromkeys(word for word in words if word), BEGIN, END, UNKNOWN)
        own = [_over(arpa, common) for arpa in models.values()]
        names = list(models)
        if "" not in models:
            own.append(_silent(common))
            names.append("")
        self.automaton = NGramAutomaton(*own)
        index = {word: i for i, word in enumerate(common)}
        rows = [[index[w] if w and w in words_of(arpa) else index[UNKNOWN] for w in words]
                for arpa in (*models.values(), *[_silent(common)] * (len(own) - len(models)))]  # fmt: skip
        self.register_buffer("words_of_tokens", torch.tensor(rows))
        table = [names.index(language if language in names else "") for language in (*languages, "")]
        self.register_buffer("model_of_language", torch.tensor(table))

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        if langs is None:
            langs = torch.full((rows,), -1, device=self.model_of_language.device)
        return (self.automaton.starts[self.model_of_language[langs]],)  # -1 is the last, which is ""

    def scores(self, state: State) -> Tensor:
        (states,) = state
        scores, _ = self.automaton.advance(states)
        return scores.gather(1, self.words_of_tokens[self.automaton.model_of(states)])

    def advance(self, state: State, tokens: Tensor) -> State:
        (states,) = state
        words = self.words_of_tokens[self.automaton.model_of(states), tokens]
        return (self.automaton.step(states, words)[1],)

    def final(self, state: State) -> Tensor:
        return self.automaton.final(state[0])


def words_of(arpa: Arpa) -> frozenset[str]:
    """The words of a model, to look them up."""
    return frozenset(arpa.words)


def named_arpa(lm: NGram, vocab: Vocabulary) -> Arpa:
    """An n-gram that was estimated over token ids, with the tokens by name."""
    names = [word or f"<output{i}>" for i, word in enumerate(token_words(vocab))]
    return lm.to_arpa(names[: lm.vocab_size])


def estimated(models: Mapping[str, NGram], vocab: Vocabulary, languages: Sequence[str]) -> TokenNGram:
    """The scorer of n-grams that were estimated over token ids, by language; that of "" is for other
    texts."""
    arpas = {code: named_arpa(lm, vocab) for code, lm in models.items()}
    return TokenNGram(arpas, token_words(vocab), languages)


def weighted(arpa: Arpa, weight: float, bonus: float) -> Arpa:
    """The model whose scores are weight * log P, plus a bonus for each word but the end."""
    end = arpa.words.index(END) if END in arpa.words else -1
    grams = [
        Grams(
            gram.words,
            weight * gram.log_probs + np.float32(bonus) * (gram.words[:, -1] != end),
            weight * gram.backoffs,
        )
        for gram in arpa.grams
    ]
    return Arpa(arpa.words, tuple(grams))


def of_texts(
    models: Mapping[str, NGram], languages: Sequence[str], *, outputs: int, weight: float, bonus: float
) -> TokenNGram:
    """`maya.decode.beams.texts_scorer.TextsScorer` without a wait for the device; outputs: V."""
    names = [str(i) for i in range(outputs)]
    arpas = {code: weighted(lm.to_arpa(names[: lm.vocab_size]), weight, bonus) for code, lm in models.items()}
    silent = _silent((*names, BEGIN, END, UNKNOWN))
    labels = max((lm.vocab_size for lm in models.values()), default=0)
    words = [name if i < labels else "" for i, name in enumerate(names)]
    return TokenNGram({code: silent for code in (*languages, "")} | arpas, words, languages)


def _over(arpa: Arpa, words: tuple[str, ...]) -> Arpa:
    """The model over other words: n-grams with words that are not among them can never match."""
    index = {word: i for i, word in enumerate(words)}
    new = np.array([index.get(word, -1) for word in arpa.words], np.int32)
    grams = []
    for gram in arpa.grams:
        table = new[gram.words]
        keep = (table >= 0).all(1)
        grams.append(Grams(table[keep], gram.log_probs[keep], gram.backoffs[keep]))
    # Unigrams in the order of `words`. The scores of missing words are never read, save <unk> and the end.
    unigrams = grams[0]
    log_probs = np.full(len(words), _absent(arpa), np.float32)
    backoffs = np.zeros(len(words), np.float32)
    log_probs[unigrams.words[:, 0]] = unigrams.log_probs
    backoffs[unigrams.words[:, 0]] = unigrams.backoffs
    if END not in arpa.words:
        log_probs[index[END]] = 0.0
    first = Grams(np.arange(len(words), dtype=np.int32)[:, None], log_probs, backoffs)
    while len(grams) > 1 and not len(grams[-1].log_probs):
        grams.pop()
    return Arpa(words, (first, *grams[1:]))


def _absent(arpa: Arpa) -> float:
    """The score of a word that the model lacks: that of <unk>."""
    unigrams = arpa.grams[0]
    if UNKNOWN not in arpa.words:
        return MISSING
    return float(unigrams.log_probs[(unigrams.words[:, 0] == arpa.words.index(UNKNOWN)).argmax()])


def _silent(words: tuple[str, ...]) -> Arpa:
    """A model whose scores are all 0."""
    table = np.arange(len(words), dtype=np.int32)[:, None]
    zeros = np.zeros(len(words), np.float32)
    return Arpa(words, (Grams(table, zeros, zeros.copy()),))
