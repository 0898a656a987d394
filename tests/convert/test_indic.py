"""IndicConformer: one language or all of them, against the specification computed plainly."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import maya
from maya.convert import from_nemo, import_nemo, to_nemo
from maya.convert.onnx.export import export_onnx
from maya.decode.ctc.beam import BeamConfig
from maya.decode.recognizer import Recognizer
from maya.decode.stream_rows import StreamRows
from maya.errors import MayaError
from maya.heads import (
    CTCConfig,
    MultisoftmaxCTCConfig,
    MultisoftmaxTransducerConfig,
)
from maya.heads.transducer import PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.recipes.cli import main
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.checkpoints.checkpoint import load_checkpoint
from tests.convert import indic_files
from tests.convert.indic_files import CODES, PIECES


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indic_files.archive(tmp_path_factory.mktemp("indic") / "indic.nemo")


@pytest.fixture(scope="module")
def whole(path: Path) -> Recognizer:
    return maya.load(path, "cpu")


@pytest.fixture(scope="module")
def newer(path: Path) -> Recognizer:
    """The same with the features since NeMo 2.5, which do not depend on the batch."""
    return import_nemo(path, front_end="since-2.5").recognizer("cpu")


@pytest.fixture(scope="module")
def audio() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator) * 0.1 for n in (16000, 9000, 12345, 16000, 7000, 15000)]


@pytest.fixture(scope="module")
def spoken() -> list[str]:
    return ["hi", "or", "as", "as", "hi", "or"]


@torch.inference_mode()
def plain(model: Recognizer, audio: Tensor, code: str, head: str) -> list[int]:
    """The local ids of the specification, for an utterance by itself."""
    enc, _ = model.encode(audio[None], torch.tensor([len(audio)]))
    state = indic_files.weights()
    search: Any = indic_files.greedy_ctc if head == "ctc" else indic_files.greedy_rnnt
    tokens: list[int] = search(state, enc[0], code)
    return tokens


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_a_batch_of_several_languages_equals_the_specification(
    newer: Recognizer, audio: list[Tensor], spoken: list[str], head: str
) -> None:
    assert newer.model.cfg.languages == CODES
    decoder = newer.make_method(newer.choose_method(head))
    hyps = newer._decode_batch([*audio], spoken, decoder=decoder, predictions=False)
    for samples, code, row in zip(audio, spoken, hyps, strict=True):
        expected = plain(newer, samples, code, head)
        assert expected and row.hypothesis is not None
        assert row.hypothesis.tokens == [i + CODES.index(code) * PIECES for i in expected]
        assert row.hypothesis.text == indic_files.tokenizers()[code].decode(expected).strip()
        assert row.hypothesis.language == code and row.hypothesis.words


@pytest.mark.parametrize("code", CODES)
def test_one_language_is_an_ordinary_model(
    path: Path, whole: Recognizer, audio: list[Tensor], code: str, tmp_path: Path
) -> None:
    made = import_nemo(path, language=code)
    cfg = made.checkpoint.model_config
    assert type(cfg.heads["ctc"]) is CTCConfig and cfg.vocab_size == PIECES and cfg.features.legacy
    own, view = made.recognizer("cpu"), whole.for_language(code)
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, view.model.state_dict()[name]), name
    for head in ("ctc", "transducer"):
        expected = [plain(whole, samples, code, head) for samples in audio]
        assert [own.transcribe(samples, method=head)[0].tokens for samples in audio] == expected
    assert own.transcribe(audio[0])[0].text.strip() == whole.transcribe(audio[0], code)[0].text
    # Sliced, exported and imported again: the same weights.
    to_nemo(whole, tmp_path / "one.nemo", language=code)
    again = from_nemo(tmp_path / "one.nemo").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in own.model.state_dict().items())


def test_a_masked_softmax_over_all_rows_is_the_softmax_over_the_slice(whole: Recognizer) -> None:
    enc, state = torch.randn(7, indic_files.WIDTH), indic_files.weights()
    for code in CODES:
        with torch.inference_mode():
            ours = whole.for_language(code).model.head("ctc")(enc)
        torch.testing.assert_close(ours, indic_files.masked_ctc(state, enc, code), rtol=0, atol=2e-6)


def test_rows_alone_equal_rows_in_a_batch(newer: Recognizer, audio: list[Tensor]) -> None:
    lens = torch.tensor([len(a) for a in audio])
    batch = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    enc, enc_lens = newer.encode(batch, lens)
    for row, samples in enumerate(audio):
        own, own_lens = newer.encode(samples[None], lens[row : row + 1])
        assert own_lens[0] == enc_lens[row]
        torch.testing.assert_close(enc[row, : own_lens[0]], own[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["ctc_beam", "alsd", "maes", "modified_beam"])
def test_beams_choose_the_slice(path: Path, whole: Recognizer, audio: list[Tensor], method: str) -> None:
    for code in CODES[:2]:
        own = from_nemo(path, language=code)
        expected = own.transcribe(audio[:2], method=method)
        ours = whole.transcribe(audio[:2], code, method=method)
        assert [h.text for h in ours] == [h.text.strip() for h in expected] and ours[0].tokens


def test_an_n_gram_of_the_training_texts_is_that_of_the_language(
    whole: Recognizer, audio: list[Tensor]
) -> None:
    ids = whole.tokenizer.encode("नमस्ते दुनिया", "hi")
    texts = lambda: iter([("hi", ids), ("or", whole.tokenizer.encode("ଦୁନିଆ", "or"))])  # noqa: E731
    method = whole.make_method(whole.choose_method("ctc_beam"), BeamConfig(lm_order=2, lm_weight=0.5), texts)
    (hyp,) = whole._transcribe_batch([audio[0]], "hi", method)
    view = whole.for_language("hi")
    local = lambda: iter([("hi", [i - 2 * PIECES for i in ids])])  # noqa: E731
    method = view.make_method(view.choose_method("ctc_beam"), BeamConfig(lm_order=2, lm_weight=0.5), local)
    assert hyp.text == view._transcribe_batch([audio[0]], "hi", method)[0].text.strip() != ""


def test_streams_of_several_languages_side_by_side(tmp_path: Path) -> None:
    """A causal model in the same layout; two streams in step, in different languages."""
    model = indic_files.streaming()
    generator = torch.Generator().manual_seed(3)
    samples = torch.randn(24000, generator=generator) * 0.1
    for head in ("ctc", "transducer"):
        rows = StreamRows(model.make_method(model.choose_method(head, stream=True)))
        open_rows = [rows.open(code) for code in CODES]
        for begin in range(0, 24000, 5000):
            piece = samples[begin : begin + 5000]
            rows.push(open_rows, [piece] * 3, [begin + 5000 >= 24000] * 3)
        for code, row in zip(CODES, open_rows, strict=True):
            stream = model.stream(code, method=head)
            stream.accept(samples)
            hyp = stream.finish()
            (offline,) = model.transcribe([samples], code, method=head)
            assert hyp.text == offline.text and hyp.tokens == offline.tokens == row.hypothesis.tokens
            assert hyp.tokens and min(hyp.tokens) >= CODES.index(code) * PIECES


def test_onnx_graphs_are_those_of_one_language(path: Path, whole: Recognizer, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    written = export_onnx(whole, tmp_path / "all", language="as")
    own = import_nemo(path, language="as").recognizer("cpu")
    same = export_onnx(own, tmp_path / "own")
    assert [p.name for p in written] == [p.name for p in same]
    tokens = (tmp_path / "all" / "tokens.txt").read_text().splitlines()
    assert len(tokens) == PIECES + 1 and (tmp_path / "own" / "tokens.txt").read_text().splitlines() == tokens


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(MayaError) as caught:
        call()
    message = str(caught.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_wrong_slices_and_languages_are_refused(
    path: Path, whole: Recognizer, audio: list[Tensor], spoken: list[str], tmp_path: Path
) -> None:
    refused(lambda: import_nemo(path, language="ta"), "no language 'ta'", "or, as, hi")
    refused(lambda: whole.transcribe(audio[0], "ta"), "'ta'", "or, as, hi")
    refused(lambda: whole.transcribe(audio[0]), "needs the language of each utterance", "or, as, hi")
    refused(lambda: whole.for_language("xx"), "'xx'", "or, as, hi")
    refused(lambda: to_nemo(whole, tmp_path / "x.nemo"), "--language", "or, as, hi")
    refused(lambda: export_onnx(whole, tmp_path / "x"), "--language", "or, as, hi")
    refused(lambda: whole.model.head("ctc")(torch.randn(1, 3, 32)), "softmax for each language")
    batch = indic_files.batch_of(whole, audio, spoken)
    batch.langs[0] = 1
    refused(lambda: whole.model(batch), "utterance a is in 'as'", "tokens")
    batch.langs[0] = -1
    refused(lambda: whole.model(batch), "needs the language of each utterance")
    single = import_nemo(path, language="hi").recognizer("cpu")
    refused(lambda: single.for_language("hi"), "'hi'")
    wrong = replace_tokenizer(whole)
    refused(lambda: wrong.for_language("hi"), "a tokenizer of 20 pieces", "output layer of 24")


def replace_tokenizer(whole: Recognizer) -> Recognizer:
    parts = indic_files.tokenizers()
    parts["hi"] = Tokenizer.train({"hi": indic_files.TEXTS["hi"]}, TokenizerConfig(vocab_size=20))
    return replace(whole, tokenizer=AggregateTokenizer(parts))


def damaged() -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    def mask(first: int) -> list[bool]:
        rows = [*range(first, first + PIECES), 3 * PIECES]
        return [row in rows for row in range(3 * PIECES + 1)]

    def masks(order: tuple[str, ...]) -> dict[str, list[bool]]:
        return {code: mask(PIECES * i) for i, code in enumerate(order)}

    def put(*names: str, value: Any) -> dict[str, Any]:
        def change(values: dict[str, Any]) -> None:
            for name in names[:-1]:
                values = values[name]
            values[names[-1]] = value

        return {"change": change}

    def state(**changed: Any) -> dict[str, Any]:
        made = indic_files.weights()
        for name, value in changed.items():
            made[name] = value(made[name])
        return {"state": {name: x for name, x in made.items() if x is not None}}

    ctc, embed = "ctc_decoder.decoder_layers.0.weight", "decoder.prediction.embed.weight"
    scattered = masks(CODES) | {"hi": [i % 2 == 0 for i in range(3 * PIECES + 1)]}
    yield (
        "order",
        put("aux_ctc", "decoder", "language_masks", value=masks(tuple(sorted(CODES)))),
        ("order as hi or",),
    )
    yield "scattered", put("decoder", "language_masks", value=scattered), ("not blocks of rows",)
    offsets = {"hi": 0, "or": PIECES, "as": 2 * PIECES}
    yield "offsets", put("joint", "token_id_offsets", value=offsets), ("order hi or as", "or as hi")
    yield "keys", put("joint", "language_keys", value=["or", "as"]), ("joint.language_keys",)
    yield "joint", put("joint", "multilingual", value=False), ("joint.multilingual is false", "true")
    yield "relabelled", put("tokenizer", "type", value="agg"), ("decoder.multisoftmax is true",)
    yield "rows", state(**{ctc: lambda x: x[1:]}), (f"has {3 * PIECES} rows", f"{3 * PIECES + 1}")
    yield (
        "layer",
        state(**{"joint.joint_net.2.as.weight": lambda x: x[1:]}),
        ("24",),
    )
    yield "blank", state(**{embed: lambda x: x + 1}), ("not zero",)
    parts = indic_files.tokenizers()
    parts["hi"] = Tokenizer.train({"hi": indic_files.TEXTS["hi"]}, TokenizerConfig(vocab_size=20))
    yield "sizes", {"parts": parts}, ("equally many pieces", "'hi': 20")
    yield "two", {"parts": {code: parts[code] for code in ("or", "as")}}, ("language_keys",)


@pytest.mark.parametrize(
    ("kind", "options", "parts"), list(damaged()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_archives_whose_slices_would_be_wrong_are_refused(
    tmp_path: Path, kind: str, options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    path = indic_files.archive(tmp_path / "x.nemo", **options)
    refused(lambda: import_nemo(path), *parts)
    refused(lambda: import_nemo(path, language="as"), *parts)


def test_masks_in_the_right_order_are_accepted(tmp_path: Path) -> None:
    rows = range(3 * PIECES + 1)
    masks = {code: [r // PIECES == i or r == 3 * PIECES for r in rows] for i, code in enumerate(CODES)}
    path = indic_files.archive(
        tmp_path / "x.nemo", change=lambda c: c["decoder"].update(language_masks=masks)
    )
    assert import_nemo(path).checkpoint.model_config.languages == CODES


def test_the_published_size(tmp_path: Path) -> None:
    """The counts of the published archives: 22 languages of 256 pieces, encoder, joint and both heads."""
    languages = tuple(f"l{i}" for i in range(22))
    heads = {
        "transducer": MultisoftmaxTransducerConfig(
            loss="rnnt", predictor=PredictorConfig(hidden=640, layers=1)
        ),
        "ctc": MultisoftmaxCTCConfig(),
    }
    cfg = SpeechModelConfig(
        encoder=indic_files.full_size(), heads=heads, vocab_size=5632, languages=languages
    )
    with torch.device("meta"):
        state = SpeechModel(cfg).state_dict()
    counts = {
        prefix: sum(t.numel() for name, t in state.items() if name.startswith(prefix))
        for prefix in ("encoder.", "heads.transducer.joint.", "heads.ctc.")
    }
    assert counts == {"encoder.": 115_128_849, "heads.transducer.joint.": 4_362_774, "heads.ctc.": 2_889_729}
    assert sum(name.startswith("encoder.") for name in state) == 686


def test_commands(
    path: Path, tmp_path: Path, audio: list[Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", audio[0].numpy(), 16000)
    main(["convert", "nemo", str(path), str(tmp_path / "hi"), "--language", "Hindi"])
    assert "may differ" in capsys.readouterr().out
    main(["convert", "nemo", str(path), str(tmp_path / "all")])
    assert load_checkpoint(tmp_path / "all" / "best.pt").model_config.languages == CODES
    capsys.readouterr()
    texts = []
    for folder, options in (("hi", []), ("all", ["--language", "hi"])):
        main(["transcribe", str(tmp_path / folder), str(tmp_path / "a.wav"), "--device", "cpu", *options])
        texts.append(capsys.readouterr().out)
    assert texts[0].split() == texts[1].split() != []
