"""The tokenizer of a language model, and the prompt for a transcript."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

MAGIC = b"maya-llm-tokenizer-1\n"
SPEECH = "\u241f"  # placeholder of the speech; no prompt or template contains it


class LLMTokenizer(Tokenizer):
    """A `tokenizer.json` of Hugging Face's tokenizers, without special tokens around a text. `model_bytes` is
    MAGIC and the JSON."""

    def __init__(self, json: str) -> None:
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise MayaError("the tokenizer of a language model needs pip install 'maya-asr[llm]'") from error
        self.model_bytes = MAGIC + json.encode()
        try:
            self._backend = Backend.from_str(json)
        except Exception as error:  # the package raises no narrower class
            raise MayaError(f"this is not the tokenizer of a language model ({error})") from None

    @classmethod
    def from_json_bytes(cls, model_bytes: bytes) -> "LLMTokenizer":
        """The tokenizer with these `model_bytes`. Raises MayaError for other bytes."""
        try:
            return cls(model_bytes.removeprefix(MAGIC).decode())
        except UnicodeDecodeError as error:
            raise MayaError(f"this is not the tokenizer of a language model ({error})") from None

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def unk_id(self) -> int:
        """The id of unknown text; -1 if there is none, as with bytes."""
        unknown = self._backend.model.unk_token if hasattr(self._backend.model, "unk_token") else None
        id = self._backend.token_to_id(unknown) if unknown else None
        return -1 if id is None else id

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a text; `language` is not used."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        """Ids of each text, in order."""
        return [e.ids for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens, stripped."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True).strip()

    def decode_exactly(self, ids: Sequence[int]) -> str:
        """As `decode`, with the spaces at both ends."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._backend.id_to_token(int(i)) or "" for i in ids]

    def scores(self, ids: Sequence[int]) -> list[float]:
        """0 for each id: these tokenizers have no scores."""
        return [0.0] * len(ids)

    def is_byte(self, id: int) -> bool:
        """Whether an id stands for one byte of a character, as `<0x0A>`."""
        piece = self._backend.id_to_token(int(id)) or ""
        return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")

    def __reduce__(self) -> tuple[Any, ...]:
        return LLMTokenizer.from_json_bytes, (self.model_bytes,)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptIds:
    """Token ids around the speech, and the id that ends a transcript."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int


def prompt_ids(tokenizer: Any, prompt: str, language: str) -> PromptIds:
    """The tokens before and after the speech of an utterance. language: its name, "" if unknown.

    With a chat template (instruction-tuned models): the user's turn with prompt and speech, then the start of
    the model's turn; a transcript ends with the token that ends the model's turn. Without one: the
    beginning-of-text token, the prompt, the speech and a new line; a transcript ends with the end-of-text
    token. tokenizer: from transformers' AutoTokenizer. Raises MayaError if it has no token that ends a text.
    """
    words = " ".join(prompt.replace("{language}", language).split())
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": f"{words} {SPEECH}"}]
        question = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        answer = [{"role": "user", "content": ""}, {"role": "assistant", "content": SPEECH}]
        end_text = tokenizer.apply_chat_template(answer, tokenize=False).partition(SPEECH)[2]
        ends = tokenizer.encode(end_text, add_special_tokens=False)[:1]
        before, _, after = question.partition(SPEECH)
    else:
        before, after = f"{tokenizer.bos_token or ''}{words} ", "\n"
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if not ends:
        raise MayaError(
            f"{tokenizer.name_or_path}: the tokenizer has no token that ends a text; give it an eos_token"
        )
    return PromptIds(
        before=tuple(tokenizer.encode(before, add_special_tokens=False)),
        after=tuple(tokenizer.encode(after, add_special_tokens=False)),
        end=int(ends[0]),
    )
