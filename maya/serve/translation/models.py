"""Translation models in folders of transformers. Nothing is downloaded, and no pickle is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maya.errors import MayaError
from maya.serve.translation.languages import iso_codes, nllb_code
from maya.text.languages import language_code

_TOKENS_PER_TOKEN, _TOKENS_MORE = 2, 20  # of a translation, for those of its source
_SOURCE_TOKENS = 512


class Translator:
    """A model. `prompt` differs from kind to kind; generation is greedy unless the folder says otherwise."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def check(self, source: str, target: str) -> None:
        """Raises MayaError for a pair of languages that the model does not translate."""
        self.prompt("", source, target)

    def prompt(self, text: str, source: str, target: str) -> tuple[str, dict[str, Any]]:
        """The text as the encoder reads it, and options of generation."""
        raise NotImplementedError

    def begin(self, source: str) -> None:
        """Before texts of a language are tokenized. Only the thread that translates calls it."""

    @torch.no_grad()
    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Texts, as one batch. Raises MayaError as `check`."""
        self.begin(source)
        prompts = [self.prompt(text, source, target) for text in texts]
        inputs = self.tokenizer(
            [text for text, _ in prompts], return_tensors="pt", padding=True, truncation=True,
            max_length=_SOURCE_TOKENS,
        )  # fmt: skip
        longest = _TOKENS_PER_TOKEN * inputs["input_ids"].shape[1] + _TOKENS_MORE
        names = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        out = self.model.generate(**names, max_new_tokens=longest, **prompts[0][1])
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]


class NllbTranslator(Translator):
    """NLLB-200: the source begins with its language, and the target's is forced."""

    def prompt(self, text: str, source: str, target: str) -> tuple[str, dict[str, Any]]:
        self._known(source)
        first = self.tokenizer.convert_tokens_to_ids(self._known(target))
        return text, {"forced_bos_token_id": first}

    def begin(self, source: str) -> None:
        self.tokenizer.src_lang = self._known(source)

    def _known(self, language: str) -> str:
        code = nllb_code(language)
        if self.tokenizer.convert_tokens_to_ids(code) in (None, self.tokenizer.unk_token_id):
            raise MayaError(f"this model does not translate {language!r}")
        return code


class MadladTranslator(Translator):
    """MADLAD-400: the text begins with the target language; the source may be any."""

    def prompt(self, text: str, source: str, target: str) -> tuple[str, dict[str, Any]]:
        language_code(source)
        vocabulary = self.tokenizer.get_vocab()
        tokens = [f"<2{code}>" for code in iso_codes(target) if f"<2{code}>" in vocabulary]
        if not tokens:
            raise MayaError(f"this model does not translate into {target!r}")
        return f"{tokens[0]} {text}", {}


class OpusTranslator(Translator):
    """OPUS-MT: a pair of languages; a model of several target languages is told one as >>fra<<."""

    pair = ("", "")

    def prompt(self, text: str, source: str, target: str) -> tuple[str, dict[str, Any]]:
        tokens = list(self.tokenizer.supported_language_codes)
        wanted = [token for code in iso_codes(target) for token in tokens if token[2:5].rstrip("<_") == code]
        same = language_code(target) == language_code(self.pair[1])
        if language_code(source) != language_code(self.pair[0]) or not (wanted or same):
            raise MayaError(f"this model does not translate {source!r} into {target!r}")
        return (f"{wanted[0]} {text}" if wanted else text), {}


KINDS = {"m2m_100": NllbTranslator, "t5": MadladTranslator, "marian": OpusTranslator}


def load_translator(spec: str) -> Translator:
    """The model of FOLDER, or of SOURCE-TARGET=FOLDER for OPUS-MT, whose files do not name the languages.

    Raises MayaError without transformers, and for a folder that holds no such model with safetensors.
    """
    pair, separator, folder = spec.rpartition("=")
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise MayaError(f"{path} holds no translation model: config.json is missing")
    try:
        import transformers
    except ImportError:
        raise MayaError("translation needs transformers: pip install 'maya-asr[llm]'") from None
    try:
        cfg = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        if cfg.model_type not in KINDS:
            kinds = "NLLB, MADLAD (t5) or OPUS-MT (marian)"
            raise MayaError(f"it is of the kind {cfg.model_type!r}; expected {kinds}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, ImportError, MayaError) as error:
        raise MayaError(f"{path} holds no translation model: {error}") from None
    translator = KINDS[cfg.model_type](tokenizer, model.eval())
    if isinstance(translator, OpusTranslator):
        source, _, target = pair.partition("-")
        if not (source and target):
            raise MayaError(f"{path} is OPUS-MT: name its languages, such as en-de={path}")
        translator.pair = language_code(source), language_code(target)
    elif separator:
        raise MayaError(f"{path} knows its languages: leave {pair}= out")
    return translator
