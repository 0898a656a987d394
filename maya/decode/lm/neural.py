"""Neural language models over the tokens of a recogniser: scorers by an LSTM of our own, and by any causal
model of transformers whose tokenizer is the recogniser's."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.decode.fusion import State
from maya.decode.lm.lstm import LSTMLanguageModel, load_lstm
from maya.decode.lm.vocabulary import Vocabulary
from maya.errors import MayaError
from maya.text.llm_tokenizer import LLMTokenizer

CONTEXT_TOKENS = 128  # that a causal model reads before the next token


class LSTMScorer(nn.Module):
    """A scorer (see `maya.decode.fusion.Scorer`) by our LSTM. Its state is (h, c) (N, layers, H) each and the
    log probabilities of the next token and of the end, (N, V + 1)."""

    def __init__(self, model: LSTMLanguageModel, vocab: Vocabulary) -> None:
        super().__init__()
        self.model = model.eval()
        self.outputs = vocab.outputs

    @torch.no_grad()
    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        state = self.model.initial_state(rows)
        ends = torch.full((rows,), self.model.end, device=state[0].device)
        return self._read(ends, state)

    def _read(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> State:
        logits, (h, c) = self.model.step(tokens, state)
        return h, c, logits.float().log_softmax(-1)

    def scores(self, state: State) -> Tensor:
        return _widened(state[2][:, :-1], self.outputs)

    @torch.no_grad()
    def advance(self, state: State, tokens: Tensor) -> State:
        h, c, _ = state
        return self._read(tokens.clamp(max=self.model.end - 1), (h, c))

    def final(self, state: State) -> Tensor:
        return state[2][:, -1]


class CausalScorer(nn.Module):
    """A scorer by a causal model of transformers. Its state is the last tokens (N, CONTEXT_TOKENS), how many
    of them count (N,), and the log probabilities (N, vocabulary) of the next token.

    The model reads the whole context for each token: right for rescoring and for short utterances.
    """

    def __init__(self, model: Any, vocab: Vocabulary, *, begin: int, end: int) -> None:
        """begin, end: the ids of the tokens before and after a text; an `end` of -1 means that there is
        none."""
        super().__init__()
        self.model, self.outputs, self.begin, self.end = model.eval(), vocab.outputs, begin, end

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        device = next(self.model.parameters()).device
        tokens = torch.full((rows, CONTEXT_TOKENS), self.begin, device=device)
        lens = torch.ones(rows, dtype=torch.int64, device=device)
        return tokens, lens, self._read(tokens, lens)

    @torch.no_grad()
    def _read(self, tokens: Tensor, lens: Tensor) -> Tensor:
        longest = int(lens.max()) if len(lens) else 1
        tokens = tokens[:, -longest:]
        mask = torch.arange(longest, 0, -1, device=tokens.device) <= lens[:, None]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions)
        return out.logits[:, -1].float().log_softmax(-1)

    def scores(self, state: State) -> Tensor:
        return _widened(state[2], self.outputs)

    def advance(self, state: State, tokens: Tensor) -> State:
        history, lens, _ = state
        history = torch.cat([history[:, 1:], tokens[:, None]], 1)
        lens = (lens + 1).clamp(max=CONTEXT_TOKENS)
        return history, lens, self._read(history, lens)

    def final(self, state: State) -> Tensor:
        return state[2][:, self.end] if self.end >= 0 else torch.zeros_like(state[2][:, 0])


def _widened(log_probs: Tensor, outputs: int) -> Tensor:
    """(N, V) of a model with other outputs: what it lacks has the score 0, as blank has."""
    missing = outputs - log_probs.shape[1]
    return nn.functional.pad(log_probs, (0, missing)) if missing > 0 else log_probs[:, :outputs]


def neural_scorer(path: Path, vocab: Vocabulary) -> LSTMScorer | CausalScorer:
    """The scorer of a folder that `maya lm` wrote, or of a folder with a causal model of transformers.

    Raises MayaError for a folder with neither, and for a model with another tokenizer.
    """
    if (path / "lm.pt").is_file():
        return LSTMScorer(load_lstm(path, vocab.tokenizer), vocab)
    if not (path / "config.json").is_file():
        raise MayaError(
            f"{path} is no neural language model: expected a folder with lm.pt (from `maya lm`) or "
            f"config.json "
            "(from transformers)"
        )
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise MayaError(f"{path} is a model of transformers: pip install 'maya-asr[llm]'") from None
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise MayaError(f"cannot load the language model {path}: {str(error).splitlines()[0]}") from None
    _check_tokenizer(path, vocab)
    return CausalScorer(model, vocab, **_ends(path, model.config, vocab))


def _ends(path: Path, config: Any, vocab: Vocabulary) -> dict[str, int]:
    begin, end = config.bos_token_id, config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    begin = end if begin is None else begin
    if begin is None:
        raise MayaError(f"{path}: its config.json names neither bos_token_id nor eos_token_id; add one")
    if config.vocab_size < vocab.tokenizer.vocab_size:
        raise MayaError(
            f"{path} has a vocabulary of {config.vocab_size} and the recogniser one of "
            f"{vocab.tokenizer.vocab_size}: train a language model with the recogniser's tokenizer"
        )
    return {"begin": int(begin), "end": -1 if end is None else int(end)}


def _check_tokenizer(path: Path, vocab: Vocabulary) -> None:
    """Raises MayaError if the folder's tokenizer is another one than the recogniser's."""
    tokenizer = vocab.tokenizer
    different = f"{path} has another tokenizer than the recogniser: its token ids mean other pieces"
    if (own := path / "tokenizer.model").is_file():
        if own.read_bytes() != tokenizer.model_bytes:
            raise MayaError(different)
    elif (own := path / "tokenizer.json").is_file():
        pieces = _json_pieces(own)
        names = tokenizer.pieces(range(tokenizer.vocab_size))
        same = sum(pieces.get(piece) == i for i, piece in enumerate(names))
        if same < len(names) * (0.9 if isinstance(tokenizer, LLMTokenizer) else 0.99):
            raise MayaError(different)


def _json_pieces(path: Path) -> dict[str, int]:
    """The id of each piece in a tokenizer.json; {} where it lists none."""
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if isinstance(vocab, dict):
        return vocab
    return {entry[0]: i for i, entry in enumerate(vocab)}
