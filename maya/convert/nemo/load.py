"""Import `.nemo` archives (CTC, RNN-T, TDT and hybrid Conformers and FastConformers of NVIDIA NeMo) without
NeMo."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from maya.convert.conversion import Conversion
from maya.convert.nemo import adapters, canary, multisoftmax, prompts
from maya.convert.nemo.archive import NemoArchive
from maya.convert.nemo.config import CHARACTERS, FrontEnd, NemoModel, read_config
from maya.convert.nemo.section import Section
from maya.convert.nemo.weights import checked_weights
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import SpeechModel
from maya.text.aggregate import AggregateTokenizer
from maya.text.characters import CharacterTokenizer
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint


def from_nemo(
    path: str | Path,
    *,
    front_end: FrontEnd = "auto",
    language: str | None = None,
    ignore: Collection[str] = (),
    device: str | torch.device = "cpu",
) -> Recognizer:
    """The model of a `.nemo` archive, ready to use. See `import_nemo` for the arguments and errors."""
    made = import_nemo(Path(path), front_end=front_end, language=language, ignore=ignore)
    return made.recognizer(device)


def import_nemo(
    path: Path,
    *,
    front_end: FrontEnd = "auto",
    encoder_only: bool = False,
    tokenizer: Tokenizer | None = None,
    language: str | None = None,
    ignore: Collection[str] = (),
) -> Conversion:
    """A `.nemo` archive as a Maya checkpoint and a report.

    front_end: features as NeMo computes them "since-2.5" or did "before-2.5"; "auto" goes by the version
        that saved the model.
    encoder_only: keep encoder and features, and initialise the heads anew, for `tokenizer` (by default the
        archive's). This also takes classes that Maya does not have (Canary, Sortformer, NEST).
    language: of a model with an output layer for each language, the one to keep; None: all of them. Of a
        model with prompts, the one to fix.
    ignore: dotted yaml keys that Maya does not know and that the user declares harmless.

    Nothing pickled is run and nothing is unpacked. Raises MayaError for a damaged archive, another class
    of model, unknown keys, and weights that contradict the yaml.
    """
    with NemoArchive(path) as archive:
        described = read_config(
            archive.config, path, front_end=front_end, ignore=ignore, encoder_only=encoder_only
        )
        own_tokenizer = _encoder_tokenizer(archive, tokenizer) if encoder_only else read_tokenizer(archive)
        stored = archive.weights()
    if isinstance(archive.config.get("adapters"), dict):
        stored = adapters.renamed(stored, described.adapter)
    _compare_vocabulary(archive, own_tokenizer, described.warnings)
    if dtypes := {str(v.dtype) for v in stored.values() if v.is_floating_point()} - {"torch.float32"}:
        described.warnings.append(f"weights stored as {', '.join(sorted(dtypes))} become torch.float32")
    if described.is_canary:
        if language is not None:
            raise MayaError(f"{path} takes the language when it transcribes; leave --language out here")
        config = canary.with_tokens(described.config, own_tokenizer, path)
        if tokenizer is not None:
            raise MayaError(f"{path}: another tokenizer needs new heads; give --encoder-only as well")
        weights = canary.canary_weights(stored, config, path)
        return _conversion(path, described, config, own_tokenizer, weights)
    if described.prompts and not encoder_only:
        stored = prompts.folded(stored, described, language, path)
    elif language is not None or (described.codes and not encoder_only):
        stored, own_tokenizer = _by_language(stored, own_tokenizer, described, language, path)
    config = _with_tokenizer(described.config, own_tokenizer)
    weights = checked_weights(stored, config, path, encoder_only=encoder_only)
    new: tuple[str, ...] = ()
    if encoder_only:
        own_tokenizer = tokenizer or own_tokenizer
        config = _with_tokenizer(config, own_tokenizer)
        others = sorted({n.split(".")[0] for n in stored} - {"encoder", "preprocessor"})
        described.warnings.append(f"left behind: {', '.join(others) or 'nothing'}")
        weights, new = _with_new_heads(weights, config)
    elif tokenizer is not None:
        raise MayaError(f"{path}: another tokenizer needs new heads; give --encoder-only as well")
    return _conversion(path, described, config, own_tokenizer, weights, new)


def _conversion(
    path: Path, described: NemoModel, config: SpeechModelConfig, tokenizer: Tokenizer,
    weights: dict[str, Tensor], new: tuple[str, ...] = (),
) -> Conversion:  # fmt: skip
    """Checkpoint and report. new: heads that are initialised anew."""
    notes = {
        "source": path.name,
        "nemo": {"target": described.target, "version": described.version},
        "front_end": "before-2.5" if _legacy(config) else "since-2.5",
        "untrained": list(new),
    }
    checkpoint = Checkpoint(model_config=config, tokenizer=tokenizer, weights=weights, step=0, notes=notes)
    return Conversion(checkpoint=checkpoint, report=_report(path, described, checkpoint, new))


def _encoder_tokenizer(archive: NemoArchive, given: Tokenizer | None) -> Tokenizer:
    """The archive's tokenizer, or the given one where Maya reads none there."""
    try:
        return read_tokenizer(archive)
    except MayaError as e:
        if given is None:
            raise MayaError(f"{e}; give --tokenizer for the new heads") from None
        return given


def _with_tokenizer(config: SpeechModelConfig, tokenizer: Tokenizer) -> SpeechModelConfig:
    languages = tokenizer.languages if isinstance(tokenizer, AggregateTokenizer) else ()
    return with_vocabulary(config, tokenizer.vocab_size, languages)


def _by_language(
    stored: dict[str, Tensor], tokenizer: Tokenizer, described: NemoModel, language: str | None, path: Path
) -> tuple[dict[str, Tensor], Tokenizer]:
    """Weights and tokenizer of a model with an output layer for each language, or of one language of it."""
    code = multisoftmax.chosen(language, described.codes, path) if language is not None else None
    assert isinstance(tokenizer, AggregateTokenizer)
    size = multisoftmax.check_sizes(stored, tokenizer, path)
    described.warnings.append(
        "transducer decoding starts from zeros, as training did; AI4Bharat's batched search starts from the "
        "row of the local blank, so its first words may differ"
    )
    if code is not None:
        return multisoftmax.of_language(stored, described.codes, size, code), tokenizer.parts[code]
    described.config = replace(described.config, heads=multisoftmax.heads(described.config.heads))
    return multisoftmax.shared_embedding(stored, size), tokenizer


def read_tokenizer(archive: NemoArchive) -> Tokenizer:
    """The SentencePiece model of an archive, or the models of a tokenizer of several languages."""
    if str(archive.config.get("target")).rsplit(".", 1)[-1] in CHARACTERS:
        return _characters(archive)
    s = Section(archive.path, "tokenizer", archive.config.get("tokenizer"))
    kind = str(s.raw("type")).lower()
    if kind == "bpe":
        return _sentencepiece(archive, s)
    if kind not in ("agg", multisoftmax.KIND):
        raise MayaError(
            f"{archive.path}: tokenizer.type is {kind!r}; Maya reads SentencePiece ('bpe'), 'agg' and "
            f"{multisoftmax.KIND!r}"
        )
    parts = s.section("langs")
    return AggregateTokenizer({code: _sentencepiece(archive, parts.section(code)) for code in parts})


def _characters(archive: NemoArchive) -> Tokenizer:
    """The labels of a character model: those of its outputs, else of the top level."""
    config = archive.config
    sections = [config.get("joint"), config.get("decoder"), (config.get("aux_ctc") or {}).get("decoder")]
    lists = [s["vocabulary"] for s in sections if isinstance(s, dict) and s.get("vocabulary")]
    labels = next((x for x in (*lists, config.get("labels")) if isinstance(x, list) and x), None)
    if labels is None:
        raise MayaError(f"{archive.path} has no labels; a character model lists them in its yaml")
    try:
        return CharacterTokenizer(labels)
    except MayaError as e:
        raise MayaError(f"{archive.path}: {e}") from None


def _compare_vocabulary(archive: NemoArchive, tokenizer: Tokenizer, warnings: list[str]) -> None:
    """Warn of a tokenizer whose pieces are not those that the yaml lists."""
    sections = [archive.config.get(name) or {} for name in ("joint", "decoder")]
    listed = next((s["vocabulary"] for s in sections if isinstance(s.get("vocabulary"), list)), None)
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    if isinstance(tokenizer, CharacterTokenizer):
        return  # made of the list
    if listed is None or len(listed) != len(pieces):
        return  # another length is refused when it is compared with the weights
    if other := sum(str(a) != b for a, b in zip(listed, pieces, strict=True)):
        warnings.append(
            f"{other} of {len(pieces)} pieces of the tokenizer differ from those in the yaml; it may "
            "belong to another model"
        )


def _sentencepiece(archive: NemoArchive, s: Section) -> Tokenizer:
    custom = s.raw("custom_tokenizer")
    custom = custom.get("_target_") if isinstance(custom, dict) else custom
    if custom is not None and str(custom).rsplit(".", 1)[-1] not in canary.TOKENIZERS:
        raise MayaError(f"{archive.path}: {s.name} has a custom class, which Maya does not support")
    if str(s.raw("type", "bpe")).lower() != "bpe":
        raise MayaError(
            f"{archive.path}: {s.where('type')} is {s.raw('type')!r}; Maya reads SentencePiece ('bpe')"
        )
    try:
        return Tokenizer(archive.artifact(s.raw("model_path"), s.where("model_path")))
    except MayaError as e:
        if str(archive.path) in str(e):
            raise
        raise MayaError(f"{archive.path}: {s.where('model_path')}: {e}") from None


def _with_new_heads(
    weights: dict[str, Tensor], config: SpeechModelConfig
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights with freshly initialised heads (seed 0), and the names of the new heads."""
    # `manual_seed` seeds GPUs, too.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        fresh = SpeechModel(config).state_dict()
    kept = {name for name in fresh if name.startswith(("encoder.", "preprocessor."))}
    return {name: weights[name] if name in kept else fresh[name] for name in fresh}, tuple(config.heads)


def _legacy(config: SpeechModelConfig) -> bool:
    assert isinstance(config.features, LogMelConfig)
    return config.features.legacy


def _report(
    path: Path, described: NemoModel, checkpoint: Checkpoint, new: tuple[str, ...]
) -> ConversionReport:
    older = _legacy(checkpoint.model_config)
    nemo = f"NeMo {described.version}" if described.version else "NeMo of unknown version"
    return ConversionReport(
        title=f"{path}: {described.target.rsplit('.', 1)[-1]}, {nemo}",
        components=components(checkpoint.model_config, checkpoint.weights),
        facts={
            "front end": f"{'before' if older else 'since'} NeMo 2.5: {described.front_end_reason}",
            "vocabulary": f"{checkpoint.tokenizer.vocab_size} pieces and a blank",
            "languages": " ".join(checkpoint.model_config.languages) or "unknown",
        },
        new=new,
        warnings=described.warnings,
    )
