"""Speech out of the server: pieces, formats, processes, OpenAI's client, and barge-in."""

import io
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.errors import MayaError
from maya.serve.speech.config import SpeechConfig
from maya.serve.speech.process import EngineFailed, EngineProcess
from maya.serve.speech.sentences import FIRST, LONGEST, pieces

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
httpx = pytest.importorskip("httpx")
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from maya.serve.speech.formats import MEDIA_TYPES, RATE, SpeechEncoder  # noqa: E402
from tests.serve.test_server import Running, config, int16, rest  # noqa: E402
from tests.serve.test_session import recording, wait_until  # noqa: E402

TEXT = "Good morning. This is the second sentence, which is a little longer! Is this the third one?"


def test_pieces_of_a_text() -> None:
    assert pieces("") == pieces(" \n ... !") == []
    assert pieces(TEXT) == ["Good morning.", TEXT[len("Good morning. ") :]]
    assert pieces("नमस्ते। आप कैसे हैं?\n你好。再见") == ["नमस्ते।", "आप कैसे हैं? 你好。 再见"]
    long = "word " * 200 + "end, " + "other " * 100
    parts = pieces(long)
    assert len(parts[0]) <= FIRST and all(len(part) <= LONGEST for part in parts)
    assert " ".join(parts).split() == long.split()
    assert "".join(pieces("x" * 1000)) == "x" * 1000
    assert pieces(
        "A sentence whose first clause is short enough, and that goes on for a good while after it."
    )[0].endswith("enough,")


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_formats_that_come_in_pieces(name: str) -> None:
    tone = (0.3 * 32767 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.int16)
    encoder = SpeechEncoder(name)
    parts = [encoder.push(tone) for _ in range(3)] + [encoder.finish()]
    data = b"".join(parts)
    if name == "pcm":
        samples = np.frombuffer(data, "<i2") / 32768
    else:
        samples, rate = soundfile.read(io.BytesIO(data))
        assert rate == RATE
    assert 3 * RATE <= len(samples) <= 3.1 * RATE
    spectrum = np.abs(np.fft.rfft(samples[RATE : 2 * RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert name == "flac" or all(parts[:3])  # FLAC comes as a whole


@pytest.fixture(scope="module")
def espeak() -> Iterator[EngineProcess]:
    engine = EngineProcess("espeak=en-gb-scotland", SpeechConfig(request_seconds=20))
    yield engine
    engine.close()


def test_a_process_speaks_dies_and_comes_back(espeak: EngineProcess) -> None:
    assert espeak.voices[:2] == ["en-gb-scotland", "en-gb-scotland+f1"] and "hi+m3" in espeak.voices
    usual, rate = espeak.speak("one two three", "en-gb-scotland", 1.0)
    assert rate == 22050 and 0.5 < len(usual) / rate < 3
    assert len(espeak.speak("one two three", "en-gb-scotland", 2.0)[0]) < 0.7 * len(usual)
    assert np.array_equal(espeak.speak("one two three", "en-gb-scotland", 1.0)[0], usual)
    with pytest.raises(EngineFailed, match="cannot speak"):
        espeak.speak("", "en-gb-scotland", 1.0)
    assert espeak._process is not None
    first = espeak._process.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: espeak._process is not None and espeak._process.poll() is not None)
    assert np.array_equal(espeak.speak("one two three", "en-gb-scotland", 1.0)[0], usual)
    assert espeak._process.pid != first
    # A process that hangs is ended, and the next request gets a new one.
    espeak.cfg = SpeechConfig(request_seconds=0.3)
    os.kill(espeak._process.pid, signal.SIGSTOP)
    with pytest.raises(EngineFailed, match=r"took more than 0.3 s"):
        espeak.speak("one", "en-gb-scotland", 1.0)
    espeak.cfg = SpeechConfig(request_seconds=20)
    assert len(espeak.speak("one", "en-gb-scotland", 1.0)[0])


def test_markup_is_read_and_not_obeyed(espeak: EngineProcess, tmp_path: Path) -> None:
    """eSpeak's markup can name files; texts are not markup."""
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.zeros(16000 * 60), 16000)
    samples, rate = espeak.speak(f'<speak><audio src="{sound}"/>hello</speak>', "en-gb-scotland", 1.0)
    assert len(samples) / rate < 20


def test_engines_that_do_not_start(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="expected one of espeak, piper"):
        EngineProcess("festival", SpeechConfig())
    for spec, reason in {
        "espeak=xx": "has no language", f"piper={tmp_path}": "", f"kokoro={tmp_path}": "",
        "cosyvoice=file:///etc/passwd": "give the address",
    }.items():  # fmt: skip
        engine = EngineProcess(spec, SpeechConfig())
        with pytest.raises(EngineFailed, match=f"did not start: .*{reason}"):
            _ = engine.voices


class Stub(BaseHTTPRequestHandler):
    """CosyVoice's server: 0.5 s of a ramp, whatever the text."""

    forms: list[dict[str, list[str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.forms.append({"path": [self.path], **urllib.parse.parse_qs(body)})
        if "redirect" in body:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/other")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(np.arange(12_000, dtype="<i2").tobytes())

    def log_message(self, *_: Any) -> None:
        return


def test_cosyvoice_over_http() -> None:
    server = HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = EngineProcess(
        f"cosyvoice=http://127.0.0.1:{server.server_port}/?speakers=anna,ben", SpeechConfig()
    )
    try:
        assert engine.voices == ["anna", "ben"]
        samples, rate = engine.speak("Hello & good = bye", "ben", 1.0)
        assert rate == 24000 and np.array_equal(samples, np.arange(12_000))
        assert Stub.forms == [
            {"path": ["/inference_sft"], "tts_text": ["Hello & good = bye"], "spk_id": ["ben"]}
        ]
        for text, speed, reason in (("redirect", 1.0, "302"), ("fast", 2.0, "speed 1 only")):
            with pytest.raises(EngineFailed, match=reason):
                engine.speak(text, "ben", speed)
    finally:
        engine.close()
        server.shutdown()


def piper_voice(folder: Path) -> Path:
    """A Piper voice without training: each phoneme id is 100 samples of a wave of its own height. Its inputs
    and outputs are those of Piper's models; scales[1] is the length."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    ramp = helper.make_tensor("ramp", kinds.FLOAT, [1, 1, 100], np.sin(np.arange(100)).tolist())
    nodes = [
        helper.make_node("Cast", ["input"], ["ids"], to=kinds.FLOAT),
        helper.make_node("Unsqueeze", ["ids", "two"], ["column"]),
        helper.make_node("Mul", ["column", "ramp"], ["waves"]),
        helper.make_node("Slice", ["scales", "one", "two"], ["length"]),
        helper.make_node("Div", ["waves", "length"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["output"]),
    ]
    constants = [ramp, helper.make_tensor("one", kinds.INT64, [1], [1]),
                 helper.make_tensor("two", kinds.INT64, [1], [2]),
                 helper.make_tensor("shape", kinds.INT64, [4], [1, 1, 1, -1])]  # fmt: skip
    inputs = [helper.make_tensor_value_info("input", kinds.INT64, [1, "n"]),
              helper.make_tensor_value_info("input_lengths", kinds.INT64, [1]),
              helper.make_tensor_value_info("scales", kinds.FLOAT, [3])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("output", kinds.FLOAT, [1, 1, 1, "samples"])]
    graph = helper.make_graph(nodes, "voice", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = folder / "tiny.onnx"
    onnx.save(model, path)
    symbols = [*"_^$ abcdefghijklmnopqrstuvwxyz.,?!ˈˌːæɑɒɔəɚɛɜɡɪŋɹʃʊʌʒθðɐɾᵻ"]
    cfg = {
        "num_symbols": len(symbols), "num_speakers": 1, "audio": {"sample_rate": 22050},
        "espeak": {"voice": "en-us"}, "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(symbols)},
    }  # fmt: skip
    path.with_name("tiny.onnx.json").write_text(json.dumps(cfg))
    return path


def test_piper_speaks_with_a_voice_that_is_built_here(tmp_path: Path) -> None:
    pytest.importorskip("piper", reason="piper-tts is not installed")
    engine = EngineProcess(f"piper={piper_voice(tmp_path)}", SpeechConfig())
    try:
        assert engine.voices == ["tiny"]
        short, rate = engine.speak("Hello.", "tiny", 1.0)
        long, _ = engine.speak("Hello world, this is longer. And a second one.", "tiny", 1.0)
        assert rate == 22050 and len(long) > 2 * len(short) > 0 and len(long) % 100 == 0
        assert np.abs(long).max() > 10_000
        spelt, _ = engine.speak("[[aaaa]]", "tiny", 1.0)  # read as a text, not as phonemes
        assert len(spelt) != 100 * (2 * 4 + 3)
    finally:
        engine.close()


def kokoro_folder(folder: Path) -> Path:
    """A Kokoro of random weights, as small as its decoder allows, with a Hindi voice and an English one."""
    torch = pytest.importorskip("torch")
    kokoro = pytest.importorskip("kokoro", reason="kokoro is not installed")
    symbols = '$;:,.!?—…"() “”abcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʣəɛɜɡɪɟŋɳɲɾɹʃʈʧʊʌʋʒʔθˈˌːʰʲ↗↘ɦ̃'
    cfg = {
        "vocab": {symbol: i for i, symbol in enumerate(symbols)}, "n_token": len(symbols), "hidden_dim": 512,
        "style_dim": 128, "n_layer": 1, "max_dur": 3, "dropout": 0.0, "n_mels": 80,
        "text_encoder_kernel_size": 5,
        "plbert": {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32,
                   "max_position_embeddings": 512, "num_hidden_layers": 1},
        "istftnet": {"upsample_kernel_sizes": [20, 12], "upsample_rates": [10, 6], "gen_istft_hop_size": 5,
                     "gen_istft_n_fft": 20, "resblock_dilation_sizes": [[1, 3, 5]],
                     "resblock_kernel_sizes": [3],
                     "upsample_initial_channel": 512},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(cfg))
    torch.manual_seed(0)
    torch.save({}, folder / "empty.pth")
    model = kokoro.KModel(repo_id="none", config=cfg, model=str(folder / "empty.pth"))
    (folder / "empty.pth").unlink()
    parts = ("bert", "bert_encoder", "predictor", "text_encoder", "decoder")
    torch.save({name: getattr(model, name).state_dict() for name in parts}, folder / "tiny.pth")
    (folder / "voices").mkdir()
    for name in ("hf_tiny", "af_tiny"):
        torch.save(torch.randn(510, 1, 256), folder / "voices" / f"{name}.pt")
    return folder


@pytest.mark.slow
def test_kokoro_speaks_with_random_weights(tmp_path: Path) -> None:
    engine = EngineProcess(f"kokoro={kokoro_folder(tmp_path / 'kokoro')}", SpeechConfig())
    try:
        assert engine.voices == ["af_tiny", "hf_tiny"]
        short, rate = engine.speak("नमस्ते", "hf_tiny", 1.0)
        long, _ = engine.speak("नमस्ते, आप कैसे हैं? आज मौसम अच्छा है।", "hf_tiny", 1.0)
        assert rate == 24000 and len(long) > len(short) > 0 and len(long) % 600 == 0
        with pytest.raises(EngineFailed, match="en_core_web_sm"):
            engine.speak("Hello", "af_tiny", 1.0)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = Running(config(speech=SpeechConfig(engines=("espeak",), waiting=2)))
    yield server
    server.close()


def test_the_openai_client_gets_speech(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=running.url("/v1", "http"), api_key="unused", max_retries=0)
    create = client.audio.speech.create
    lengths = {}
    for name in MEDIA_TYPES:
        answer = create(model="tts-1", voice="alloy", input=TEXT, response_format=name)
        assert answer.response.headers["content-type"].startswith(MEDIA_TYPES[name])
        data = answer.content
        sound = np.frombuffer(data, "<i2") if name == "pcm" else soundfile.read(io.BytesIO(data))[0]
        lengths[name] = len(sound) / RATE
    assert max(lengths.values()) - min(lengths.values()) < 0.15 and 4 < lengths["pcm"] < 12
    fast = create(model="espeak", voice="en-us+f2", input=TEXT, response_format="pcm", speed=2.0)
    assert len(fast.content) / 2 / RATE < 0.75 * lengths["pcm"]
    own: Any = {"id": "de"}
    assert (
        create(model="espeak", voice=own, input="Guten Morgen", response_format="wav").content[:4] == b"RIFF"
    )
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=TEXT, response_format="pcm"
    ) as stream:
        parts = list(stream.iter_bytes())
    assert len(b"".join(parts)) / 2 / RATE == pytest.approx(lengths["pcm"], abs=0.05)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"voice": "../../etc/passwd"}, "voice"), ({"voice": "en+../../x"}, "voice"),
        ({"response_format": "aac"}, "response_format"), ({"response_format": "../x"}, "response_format"),
        ({"input": ""}, "input"), ({"input": "x" * 4097}, "input"), ({"speed": 9}, "speed"),
        ({"extra_body": {"speed": "fast"}}, "speed"), ({"extra_body": {"input": 3}}, "input"),
        ({"extra_body": {"stream_format": "smoke"}}, "stream_format"),
    )  # fmt: skip
    for options, param in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            create(**({"model": "espeak", "voice": "alloy", "input": "Hello"} | options))
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        create(model="http://127.0.0.1:9/model", voice="alloy", input="Hello")


def test_events_of_speech(running: Running) -> None:
    url = running.url("/v1/audio/speech", "http")
    body = {"input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    lines = httpx.post(url, json=body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 2 + ["speech.audio.done"]
    assert events[-1]["usage"]["seconds"] > 4
    for data in (b"", b"[1]", b"{", b"[" * 50_000, b" " * 200_000):
        assert httpx.post(url, content=data).status_code == 400
    running.server.speech.requests = 2
    assert httpx.post(url, json=body).status_code == 429
    running.server.speech.requests = 0


def test_the_user_silences_the_session(running: Running) -> None:
    """The answer is sent as it is played, so it stops when the voice detector hears the user."""
    tones = int16(recording(0))
    with connect(running.url("/v1/stream")) as client:
        client.recv()
        for name, text in (("a", TEXT), ("b", "Another one.")):
            client.send(json.dumps({"type": "say", "id": name, "text": text}))
        assert json.loads(client.recv()) == {"type": "say_started", "id": "a", "rate": RATE, "turn": 0}
        began, received = time.monotonic(), 0
        client.send(tones.tobytes())
        messages: list[Any] = []
        while len(messages) < 3:
            message = client.recv(timeout=20)
            if isinstance(message, bytes):
                assert not messages
                received += len(message) // 2
            elif (event := json.loads(message))["type"] in ("speech_started", "say_ended"):
                messages.append(event)
        assert [m["type"] for m in messages] == ["speech_started", "say_ended", "say_ended"]
        assert [(m["id"], m["reason"]) for m in messages[1:]] == [("a", "barge_in"), ("b", "barge_in")]
        assert received / RATE < time.monotonic() - began + 1.3


def test_saying_and_stopping(running: Running) -> None:
    with connect(running.url("/v1/stream")) as client:
        client.recv()

        def ended() -> tuple[str, str, int]:
            received = 0
            while True:
                message = client.recv(timeout=20)
                if isinstance(message, bytes):
                    received += len(message)
                elif (event := json.loads(message))["type"] == "say_ended":
                    return event["id"], event["reason"], received

        client.send(
            json.dumps({"type": "say", "id": "a", "text": "One.", "voice": "en-gb-scotland+m3", "speed": 2})
        )
        name, reason, received = ended()
        assert (name, reason) == ("a", "end") and received > RATE / 4
        client.send(json.dumps({"type": "say", "id": "b", "text": TEXT}))
        client.send(json.dumps({"type": "stop"}))
        assert ended()[:2] == ("b", "stop")
        for fields in (
            {"text": 3}, {"text": "a", "voice": "no"}, {"text": "a", "model": "no"},
            {"text": "...", "id": "x"},
            {"text": "a", "speed": "x"}, {"text": "a", "speed": 1e99}, {"text": "a", "speed": []},
        ):  # fmt: skip
            client.send(json.dumps({"type": "say"} | fields))
            assert ended()[1] == "error"
        client.send(json.dumps({"type": "say", "id": "c", "text": TEXT}))
        client.send('{"type": "end"}')
        assert ended()[:2] == ("c", "session")


def test_no_name_from_a_client_reaches_files_or_network(running: Running) -> None:
    """Python reports every file that is opened and every connection; none may hold what a client sent."""
    mark, seen, watching = "nowhere-8d1f", [], [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "socket.connect", "subprocess.Popen", "os.listdir", "import"):
            seen.extend(event for argument in arguments if mark in repr(argument))

    sys.addaudithook(hook)
    base = running.url("", "http")
    for name in (
        f"/{mark}",
        f"../{mark}.pt",
        f"http://127.0.0.1:1/{mark}",
        f"file:///{mark}",
        f"en+../{mark}",
    ):
        body = {"input": name, "voice": name, "model": name, "response_format": name}
        for field in ("voice", "model", "response_format", "input"):
            others = {"input": "Hello", "response_format": "pcm"} | {field: body[field]}
            httpx.post(f"{base}/v1/audio/speech", json=others)
        form = {"language": "en", "to": name, "model": "small", "response_format": "json", "prompt": name}
        for field in form:
            answer = httpx.post(
                f"{base}/v1/audio/translations", data=form | {field: name}, files={"file": (name, b"x")}
            )
            assert answer.status_code in (400, 404)
        for query in (
            f"language=en&translate_to={name}",
            f"language={name}&translate_to=en",
            f"speakers={name}",
        ):
            with suppress(ConnectionClosed), connect(running.url(f"/v1/stream?{query}")) as client:
                client.send(json.dumps({"type": "say", "text": name, "voice": name, "model": name}))
                client.send('{"type": "end"}')
                rest(client)
    watching.clear()
    assert seen == []


def test_random_requests_are_answered(running: Running) -> None:
    draw = random.Random(0)
    values = [
        None,
        "",
        "en",
        "Hello",
        0,
        -1,
        1e308,
        True,
        [],
        {},
        {"id": 3},
        "\x00",
        "\ud800",
        "x" * 5000,
        "sse",
    ]
    names = ["input", "voice", "model", "response_format", "speed", "stream_format", "instructions", "other"]
    url = running.url("/v1/audio/speech", "http")
    with httpx.Client() as client:
        for _ in range(150):
            body = {name: draw.choice(values) for name in draw.sample(names, draw.randrange(len(names)))}
            answer = client.post(url, content=json.dumps(body), timeout=20)
            assert answer.status_code in (200, 400, 404), (body, answer.text)
    assert not running.server.speech.requests


def test_a_server_without_engines_says_so() -> None:
    server = Running(config())
    try:
        answer = httpx.post(server.url("/v1/audio/speech", "http"), json={"input": "Hello"})
        assert answer.status_code == 404 and "--speech" in answer.json()["error"]["message"]
    finally:
        server.close()
