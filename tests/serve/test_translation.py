"""Translation behind recognition, with tiny random models and tokenizers that are trained here."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.errors import MayaError
from maya.serve.translation.languages import iso_codes, nllb_code
from maya.serve.translation.models import load_translator
from maya.serve.translation.queue import TranslationQueue

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `llm` is not installed")
httpx = pytest.importorskip("httpx")
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from tests.serve.test_server import Running, config, int16, rest, wav  # noqa: E402
from tests.serve.test_session import recording  # noqa: E402

TEXTS = ["the cat sat on the mat", "one two three four five", "a dog and a cat", "npm mcp tmp ppm"] * 20
TINY: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": 512,
}  # fmt: skip


def nllb(folder: Path) -> Path:
    """M2M-100 with NLLB's tokenizer for English, Hindi and German."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=80, special_tokens=special))
    trained = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = transformers.NllbTokenizer(
        vocab=trained["vocab"], merges=merges, extra_special_tokens=["eng_Latn", "hin_Deva", "deu_Latn"]
    )
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    return _save(folder, tokenizer, transformers.M2M100Config(vocab_size=len(tokenizer), **TINY, **ids))


def madlad(folder: Path) -> Path:
    """T5 with MADLAD's tokens of target languages."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"),
    )
    vocab = [tuple(item) for item in json.loads(backend.to_str())["model"]["vocab"]]
    tokenizer = transformers.T5Tokenizer(vocab=vocab, pad_token="<s>", extra_ids=0)
    tokenizer.add_tokens(["<2de>", "<2hi>"])
    cfg = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _save(folder, tokenizer, cfg)


def opus(folder: Path, targets: tuple[str, ...] = ()) -> Path:
    """Marian with sentencepiece models for both sides."""
    import sentencepiece

    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("\n".join(TEXTS))
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text.txt"), model_prefix=str(folder / side), vocab_size=30, minloglevel=2
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = [pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())]
    vocab = {name: i for i, name in enumerate(["</s>", "<unk>", *names, *targets, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    files = {"source_spm": "source.spm", "target_spm": "target.spm", "vocab": "vocab.json"}
    tokenizer = transformers.MarianTokenizer(**{name: str(folder / file) for name, file in files.items()})
    pad = vocab["<pad>"]
    ids = {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad, "forced_eos_token_id": 0}
    return _save(folder, tokenizer, transformers.MarianConfig(vocab_size=len(vocab), **TINY, **ids))


def _save(folder: Path, tokenizer: Any, cfg: Any) -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("translation")
    return {"nllb": nllb(top / "nllb"), "madlad": madlad(top / "madlad"), "opus": opus(top / "opus"),
            "several": opus(top / "several", (">>fra<<", ">>deu<<"))}  # fmt: skip


def test_languages() -> None:
    expected = {
        "en": "eng_Latn", "hi": "hin_Deva", "zh": "zho_Hans", "zh-TW": "zho_Hant", "ks-Deva": "kas_Deva",
        "ar": "arb_Arab", "fa": "pes_Arab", "no": "nob_Latn", "ku": "kmr_Latn", "pa": "pan_Guru",
    }  # fmt: skip
    assert {code: nllb_code(code) for code in expected} == expected
    assert iso_codes("German") == ("de", "deu", "ger")
    for code in ("la", "xx", "../../etc", "hi-Arab"):
        with pytest.raises(MayaError):
            nllb_code(code)


def given(translator: Any) -> list[dict[str, Any]]:
    """What the model is given from now on: one entry for each batch that it translates."""
    seen: list[dict[str, Any]] = []
    generate = translator.model.generate
    translator.model.generate = lambda **options: seen.append(options) or generate(**options)
    return seen


def test_models_of_each_kind(folders: dict[str, Path]) -> None:
    text = "the cat sat on the mat"
    nllb, madlad = load_translator(str(folders["nllb"])), load_translator(str(folders["madlad"]))
    for translator in (nllb, madlad):
        assert len(translator.translate([text, "one two"], "en", "de")) == 2
        with pytest.raises(MayaError, match="does not translate"):
            translator.check("en", "ta")
    # What models of random weights write may be the same for two languages, by chance and by the CPU: what
    # they are given is not. NLLB's language is the first token written, and that of the source is read.
    seen = given(nllb)
    nllb.translate([text], "en", "hi")
    ids = nllb.tokenizer.convert_tokens_to_ids
    assert seen[0]["forced_bos_token_id"] == ids("hin_Deva") and seen[0]["input_ids"][0, 0] == ids("eng_Latn")
    seen = given(madlad)
    for language in ("hi", "de"):
        madlad.translate([text], "en", language)
    assert [madlad.tokenizer.decode(options["input_ids"][0]).split()[0] for options in seen] == [
        "<2hi>",
        "<2de>",
    ]
    pair = load_translator(f"en-de={folders['opus']}")
    assert isinstance(pair.translate([text], "en", "de")[0], str)
    for source, target in (("de", "en"), ("en", "fr"), ("xx", "de")):
        with pytest.raises(MayaError):
            pair.check(source, target)
    several = load_translator(f"en-fr={folders['several']}")
    assert (
        several.prompt("a", "en", "fr")[0] == ">>fra<< a"
        and several.prompt("a", "en", "de")[0] == ">>deu<< a"
    )
    seen = given(several)
    for language in ("fr", "de"):
        several.translate([text], "en", language)
    first = [int(options["input_ids"][0, 0]) for options in seen]
    assert first == several.tokenizer.convert_tokens_to_ids([">>fra<<", ">>deu<<"])


def test_what_is_no_model(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folders["nllb"].iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    for spec, reason in {
        str(tmp_path / "none"): "config.json is missing", str(tmp_path): "of the kind 'bert'",
        str(pickled): "holds no translation model", str(folders["opus"]): "name its languages",
        f"en-de={folders['nllb']}": "leave en-de= out",
    }.items():  # fmt: skip
        with pytest.raises(MayaError, match=reason):
            load_translator(spec)


class Backwards:
    """A stand-in: [target] and the words backwards. It waits for `go`."""

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), 0
        self.go.set()

    def check(self, source: str, target: str) -> None:
        if target not in ("de", "en", "hi"):
            raise MayaError("no")

    def translate(self, texts: list[str], source: str, target: str) -> list[str]:
        self.go.wait(20)
        self.batches += 1
        if "fail" in texts:
            raise RuntimeError("a bug")
        return [f"[{target}] {' '.join(reversed(text.split()))}" for text in texts]


def test_the_queue_keeps_order_and_outlives_a_failure() -> None:
    model: Any = Backwards()
    queue = TranslationQueue([model], waiting=60)
    model.go.clear()
    futures = [queue.submit(f"a {i}. b {i}", "en", "de" if i < 40 else "hi") for i in range(50)]
    bad = queue.submit("fail", "en", "hi")
    with pytest.raises(MayaError, match="try again"):
        for _ in range(60):
            queue.submit("x", "en", "de")
    model.go.set()
    assert [f.result(20) for f in futures[:2]] == ["[de] 0. a [de] 0 b", "[de] 1. a [de] 1 b"]
    assert futures[49].result(20) == "[hi] 49. a [hi] 49 b"
    with pytest.raises(RuntimeError, match="a bug"):
        bad.result(20)
    assert queue.submit("c d", "en", "de").result(20) == "[de] d c" and model.batches < 20
    for source, target in (("en", "fr"), ("xx", "de"), ("en", "../../x")):
        with pytest.raises(MayaError):
            queue.submit("x", source, target)
    queue.close()
    with pytest.raises(MayaError, match="--translate"):
        TranslationQueue([]).submit("x", "en", "de")


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Running]:
    server = Running(replace(config(), translation=(str(folders["nllb"]),)))
    server.server.translation.translators.append(Backwards())
    yield server
    server.close()


def stream(running: Running, query: str) -> list[Any]:
    with connect(running.url(f"/v1/stream?{query}")) as client:
        client.send(int16(recording(0)).tobytes())
        client.send('{"type": "end"}')
        return rest(client)


@pytest.mark.parametrize("wait", [False, True])
def test_finals_are_translated(running: Running, wait: bool) -> None:
    """Each final has one translation, linked by its segment, also when the translator is slow: the session's
    end waits for it."""
    model: Any = running.server.translation.translators[0]
    translate = model.translate
    if wait:
        model.translate = lambda *args: time.sleep(0.5) or translate(*args)
    try:
        messages = stream(running, "language=hi&translate_to=de")
    finally:
        model.translate = translate
    finals = [m for m in messages if m["type"] == "final"]
    translations = [m for m in messages if m["type"] == "translation"]
    assert [m["segment"] for m in translations] == [m["segment"] for m in finals] and len(finals) >= 2
    expected = [translate([final["text"]], "hi", "de")[0] for final in finals]
    assert [m["text"] for m in translations] == expected and {m["language"] for m in translations} == {"de"}
    assert messages[-1]["type"] == "ended"
    assert [m for m in stream(running, "") if m["type"] == "translation"] == []


@pytest.mark.parametrize(("query", "reason"), [
    ("language=hi&translate_to=ta", "does not translate"),
    ("language=hi&translate_to=../x", "unknown language"),
    ("translate_to=de", "translate_to needs language"),
])  # fmt: skip
def test_unknown_pairs_are_refused(running: Running, query: str, reason: str) -> None:
    with connect(running.url(f"/v1/stream?{query}")) as client:
        assert reason in rest(client)[0]["message"]
    assert client.close_code == 1008


def test_the_openai_client_translates(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=running.url("/v1", "http"), api_key="unused", max_retries=0)
    upload = ("a.wav", wav(recording(0)))
    create = client.audio.translations.create
    own = {"language": "hi"}
    answer = create(file=upload, model="small", extra_body=own)
    transcript = client.audio.transcriptions.create(
        file=upload, model="small", response_format="verbose_json", extra_body=own
    )
    text, segments = transcript.text, transcript.segments
    translate = running.server.translation.translators[0].translate
    assert (
        answer.text == " ".join(translate([s.text], "hi", "en")[0] for s in segments) and answer.text != text
    )
    assert create(file=upload, model="small", extra_body=own, response_format="srt").startswith("1\n00:")
    assert create(file=upload, model="small", extra_body=own | {"to": "hi"}).text == text
    for options in (
        {},
        own | {"to": "ta"},
        own | {"to": "no such"},
        own | {"response_format": "diarized_json"},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(file=upload, model="small", extra_body=options)
        assert caught.value.param in ("language", "to", "response_format")


def test_a_client_that_leaves_cancels_its_translations(running: Running) -> None:
    model: Any = running.server.translation.translators[0]
    go, translate = threading.Event(), model.translate
    model.translate = lambda *args: go.wait(20) and translate(*args)
    try:
        with connect(running.url("/v1/stream?language=hi&translate_to=de")) as client:
            client.send(int16(recording(0)).tobytes())
            client.send('{"type": "flush"}')
            while json.loads(client.recv(timeout=20))["type"] != "flushed":
                pass
    except ConnectionClosed:
        pass
    finally:
        go.set()
        model.translate = translate
    assert stream(running, "language=hi&translate_to=de")[-1]["type"] == "ended"
