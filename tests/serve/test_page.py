"""The server's page in headless Chromium: a microphone, whose sound is a file, and recordings."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from maya.audio.load import resample
from tests.browser import CONTRAST, Browser, click, settle
from tests.decode.test_buffered import speech
from tests.decode.test_stream_rows import noise
from tests.score.twelve_scripts import WORDS
from tests.serve.test_session import QUIET, RATE, finals, model, wait_until

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx")
from maya.serve.access import Access  # noqa: E402
from maya.serve.config import EngineConfig  # noqa: E402
from maya.serve.events import Final  # noqa: E402
from maya.serve.protocols.connection import Connection  # noqa: E402
from tests.serve.test_server import KEY, Running, config, expected_texts, int16, wav  # noqa: E402

MICROPHONE_RATE = 48_000
SHOWN = "Array.from(document.querySelectorAll('#finals p'), e => e.textContent)"
STATUS = "document.getElementById('status').textContent"
ERROR = "document.getElementById('error').textContent"
IDLE = "!document.getElementById('file').disabled"


def said(rate: int) -> np.ndarray:
    """Two bursts of 1 s with pauses around them."""
    parts: list[Any] = []
    for seed in (0, 1):
        tones = resample(speech(1.0 + 0.5 * seed), RATE, rate)
        parts += [1e-4 * noise(rate, seed).numpy(), (tones + 0.1 * noise(len(tones), seed + 100)).numpy()]
    return np.concatenate([*parts, 1e-4 * noise(2 * rate, 2).numpy()]).astype(np.float32)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    soundfile.write(folder / "said.wav", said(MICROPHONE_RATE), MICROPHONE_RATE, subtype="PCM_16")
    chromium = Browser(
        folder / "profile", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'said.wav'}%noloop",
    )  # fmt: skip
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = Running(config())
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_complaints(browser: Browser) -> Iterator[None]:
    """A test fails if the page wrote an error to the console: an exception, or a breach of its policy."""
    browser.complaints.clear()
    browser.window(1200, 900)
    yield
    assert browser.complaints == []


@pytest.fixture
def page(browser: Browser, running: Running) -> Browser:
    browser.open(running.url("/", "http"))
    wait_for(browser, IDLE)
    return browser


def wait_for(browser: Browser, condition: str) -> None:
    """Until an expression of the page is true; two minutes at most."""
    code = f"""new Promise(done => {{
      const end = Date.now() + 30000;
      (function look() {{ {condition} || Date.now() > end ? done() : setTimeout(look, 30); }})();
    }})"""
    for _ in range(4):  # the browser must answer within a minute
        browser.run(code)
        if browser.run(condition):
            return
    raise AssertionError((condition, browser.run(f"[{STATUS}, {ERROR}, {SHOWN}]")))


def choose_file(browser: Browser, *files: Path) -> None:
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])


def write(folder: Path, samples: np.ndarray, name: str = "said.wav") -> Path:
    (folder / name).write_bytes(wav(samples))
    return folder / name


def test_a_microphone(page: Browser, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows what a session makes of the samples that the server got; these are those of the
    microphone."""
    pieces: list[tuple[np.ndarray, int]] = []
    feed = Connection.feed

    async def recorded(self: Connection, samples: np.ndarray, rate: int) -> None:
        pieces.append((samples.copy(), rate))
        await feed(self, samples, rate)

    monkeypatch.setattr(Connection, "feed", recorded)
    click(page, "#start")
    wait_for(page, f"{SHOWN}.length >= 2")
    assert page.run("document.getElementById('start').textContent") == "Stop the microphone"
    latency = page.run("document.getElementById('latency').textContent")
    assert "after the end of speech" in latency and "First words" in latency
    click(page, "#start")
    wait_for(page, IDLE)
    samples = np.concatenate([piece for piece, _ in pieces])
    (rate,) = {rate for _, rate in pieces}
    assert page.run(SHOWN) == expected_texts(running, samples, rate)
    assert "s of sound recognised" in page.run(STATUS) and page.run(ERROR) == ""
    assert len({len(piece) for piece, _ in pieces[:-1]}) == 1 and len(pieces[0][0]) == rate // 20
    sent = torch.from_numpy(samples / np.float32(32768))
    reference, got = said(MICROPHONE_RATE), resample(sent, rate, MICROPHONE_RATE).numpy()
    size = 1 << (len(reference) + len(got)).bit_length()
    product = np.fft.rfft(got, size) * np.conj(np.fft.rfft(reference, size))
    likeness = np.fft.irfft(product).max() / np.linalg.norm(reference) / np.linalg.norm(got)
    assert likeness > 0.98
    # The microphone goes on in the same transcript.
    before = page.run(SHOWN)
    click(page, "#start")
    wait_for(page, f"{STATUS} === 'Listening.'")
    click(page, "#start")
    wait_for(page, IDLE)
    assert page.run(SHOWN)[: len(before)] == before


def events_of(running: Running, samples: np.ndarray) -> list[Final]:
    session = model("fastconformer", "transducer").open(cfg=QUIET)
    return finals(session.feed(samples, RATE) + session.finish())


def test_a_file_with_its_words(page: Browser, running: Running, tmp_path: Path) -> None:
    samples = int16(said(RATE))
    choose_file(page, write(tmp_path, samples))
    wait_for(page, f"{IDLE} && {SHOWN}.length > 0")
    expected = events_of(running, samples)
    assert page.run(SHOWN) == [final.text for final in expected]
    titles = page.run("Array.from(document.querySelectorAll('#finals .word'), e => [e.textContent, e.title])")
    words = [word for final in expected for word in final.words]
    assert titles == [
        [w.text, f"confidence {w.confidence:.2f}, {w.start:.2f} to {w.end:.2f} s"] for w in words
    ]
    doubts = page.run("Array.from(document.querySelectorAll('#finals .word'), "
                      "e => Number(e.style.getPropertyValue('--doubt')))")  # fmt: skip
    assert doubts == pytest.approx([1 - (w.confidence or 0) for w in words])
    assert page.run("document.querySelector('#partial').textContent") == ""
    label = page.run("document.getElementById('track').getAttribute('aria-label')")
    assert label.startswith(f"{len(samples) / RATE:.1f} s of sound") and f"{len(expected)} segments" in label
    painted = page.run("""(() => { const c = document.getElementById('track');
        const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size; })()""")
    assert painted > 4
    # Another file begins anew, and a drop is as good as the button.
    data = json.dumps(list(wav(samples[: 2 * RATE])))
    page.run(f"""(() => {{ const data = new DataTransfer();
        data.items.add(new File([new Uint8Array({data})], 'a.wav'));
        dispatchEvent(new DragEvent('drop', {{dataTransfer: data, cancelable: true}})); }})()""")
    wait_for(page, f"{IDLE} && {STATUS}.startsWith('2.0 s')")
    assert page.run(SHOWN) == expected_texts(running, samples[: 2 * RATE])


def test_downloads(page: Browser, running: Running, tmp_path: Path) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    samples = int16(said(RATE))
    choose_file(page, write(tmp_path, samples, "a talk.wav"))
    wait_for(page, f"{IDLE} && {SHOWN}.length > 0")
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    expected = events_of(running, samples)
    words = [word for final in expected for word in final.words]
    for kind in ("srt", "vtt", "txt"):
        click(page, f"[data-format={kind}]")
        path = tmp_path / f"a talk.{kind}"
        wait_until(lambda path=path: path.exists() and path.stat().st_size > 0)
        if kind == "txt":
            assert path.read_text("utf-8") == "".join(f"{final.text}\n" for final in expected)
            continue
        cues = pysubs2.load(str(path), encoding="utf-8")
        assert " ".join(cue.plaintext.replace("\n", " ") for cue in cues) == " ".join(w.text for w in words)
        assert cues[0].start == round(1000 * (words[0].start or 0))
        assert all(a.end <= b.start for a, b in zip(cues, cues[1:], strict=False))


SEGMENTS = [
    {"text": "a & <b> c", "start": 0.5, "end": 0.9, "words": []},
    {"text": " ".join(["word"] * 40), "start": 1.0, "end": 41.0, "words": [
        {"text": "word", "from": 5 * i, "to": 5 * i + 4, "start": 1.0 + i, "end": 1.9 + i} for i in range(40)
    ]},
    {"text": "x y", "start": 3599.9996, "end": 3605.0, "words": [
        {"text": "x", "from": 0, "to": 1, "start": 3599.9996, "end": 3600.1},
        {"text": "y", "from": 2, "to": 3, "start": 3604.0, "end": 3605.0},
    ]},
]  # fmt: skip


def test_cues(page: Browser) -> None:
    """Cues end at pauses, after 7 s and after two lines of 42 characters; times round as a whole."""
    module = f"import('/page/subtitles.js').then(m => m.%s({json.dumps(SEGMENTS)}))"
    cues = page.run(module % "cues")
    assert [cue["text"] for cue in cues[-2:]] == ["x", "y"] and cues[0]["end"] == 1.0
    assert all(cue["end"] - cue["start"] <= 7 for cue in cues)
    assert " ".join(cue["text"] for cue in cues) == " ".join(str(s["text"]) for s in SEGMENTS)
    vtt = page.run(module % "FORMATS.vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.000\na &amp; &lt;b&gt; c\n")
    assert "01:00:00.000 --> 01:00:01.000\nx\n" in vtt
    assert "00:00:00,500 --> 00:00:01,000\na & <b> c\n" in page.run(module % "FORMATS.srt")


def test_models_languages_and_scripts(page: Browser, running: Running) -> None:
    """The lists are the server's; text of any script and any content is text, with the direction it needs."""
    listed = httpx.get(running.url("/v1/models", "http")).json()["data"]
    values = "id => Array.from(document.getElementById(id).options, o => o.value)"
    assert page.run(f"['model', 'language'].map({values})") == [["small"], ["", *listed[0]["languages"]]]
    texts = [*WORDS.values(), "اردو زبان", "<img src=x onerror=window.broken=1> 👩‍👩‍👧 x"]
    page.run(f"""import('/page/transcript.js').then(({{Transcript}}) => {{
      const [box, finals, partial] = ['text', 'finals', 'partial'].map(id => document.getElementById(id));
      const made = new Transcript(box, finals, partial);
      for (const text of {json.dumps(texts)}) made.add({{text, start: 0, end: 1, language: null,
        words: text.split(' ').map(word => ({{text: word, start: 0, end: 1, confidence: 0.4}}))}}, 0);
      made.showPartial('👩‍👩‍👧 कख', 6);
    }})""")
    assert page.run(SHOWN) == texts
    assert page.run("document.images.length === 0 && window.broken === undefined")
    assert page.run("Array.from(document.getElementById('partial').children, e => e.textContent)") == [
        "👩‍👩‍👧 ",
        "कख",
    ]
    assert (
        page.run("Array.from(document.querySelectorAll('#finals p'), e => getComputedStyle(e).direction)")[-2]
        == "rtl"
    )
    for width in (320, 1200):
        page.window(width, 640)
        settle(page)
        assert page.run("document.documentElement.scrollWidth") <= width
        boxes = page.run(
            "Array.from(document.querySelectorAll('button, select, .file label'), "
            "e => e.getBoundingClientRect()).map(r => [r.height, r.right, r.width])"
        )
        assert all(not size or (height >= 40 and right <= width) for height, right, size in boxes)
    assert page.run(
        "(e => e.scrollTop + e.clientHeight >= e.scrollHeight - 1)(document.getElementById('text'))"
    )
    for scheme in ("light", "dark"):
        page.window(1200, 900, scheme=scheme)
        settle(page)
        page.run("document.getElementById('error').textContent = 'An error.'")
        worst = page.run(CONTRAST)
        assert "SPAN.word" in worst
        assert {name: round(ratio, 2) for name, ratio in worst.items() if ratio < 4.5} == {}


def test_keyboard_alone(page: Browser, running: Running) -> None:
    """Tab reaches each control that can be used, in the order of the page; Enter begins, and ends."""
    page.run("document.activeElement.blur()")
    stops = []
    for _ in range(5):
        page.key("Tab")
        stops.append(page.run("document.activeElement.id"))
        style = page.run("(e => getComputedStyle(e.id === 'file' ? e.nextElementSibling : e).outlineStyle)"
                         "(document.activeElement)")  # fmt: skip
        assert style == "solid", stops
    assert stops == ["start", "file", "language", "clean", "text"]
    page.run("document.getElementById('start').focus()")
    page.key("Enter")
    wait_for(page, f"{STATUS} === 'Listening.'")
    assert page.run("document.activeElement.id") == "start"
    page.key("Enter")
    wait_for(page, IDLE)
    page.run("document.getElementById('clear').focus()")
    page.key("Enter")
    assert page.run("document.activeElement.id") == "start" and page.run(SHOWN) == []
    live = page.run("Array.from(document.querySelectorAll('[aria-live], [role=log]'), e => e.id)")
    assert live == ["finals"]  # partial text is not read out


def test_policy(running: Running) -> None:
    base = running.url("", "http")
    for path in ("/", "/page/main.js", "/page/page.css"):
        answer = httpx.get(base + path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-cache"
        again = httpx.get(base + path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    html = httpx.get(f"{base}/").text
    assert "<style" not in html and "style=" not in html and html.count("<script") == 1
    assert "http:" not in html and "https:" not in html and "onclick" not in html
    for path in (
        "/page/../files.py",
        "/page/%2e%2e/files.py",
        "/page/",
        "/page/none.js",
        "/page/..%2f__init__.py",
    ):
        assert httpx.get(base + path).status_code in (404, 405), path


def test_errors_are_sentences(page: Browser, running: Running, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF no sound")
    choose_file(page, tmp_path / "noise.wav")
    wait_for(page, f"{IDLE} && {ERROR} !== ''")
    assert "cannot be decoded" in page.run(ERROR)
    denied = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '%s'))"
    for name, text in (
        ("NotAllowedError", "was refused"),
        ("NotFoundError", "no microphone"),
        ("E", "cannot"),
    ):
        page.run(denied % name)
        click(page, "#start")
        wait_for(page, f"{IDLE} && {ERROR}.includes({json.dumps(text)})")
    page.run("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    click(page, "#start")
    wait_for(page, f"{ERROR}.includes('https')")


def test_a_key_a_full_server_and_a_draining_one(browser: Browser, tmp_path: Path) -> None:
    server = Running(config(engine=EngineConfig(slots=1)), Access.of([KEY]))
    try:
        browser.open(server.url("/", "http"))
        wait_for(browser, "!document.getElementById('entry').hidden")
        assert "asks for a key" in browser.run(ERROR) and browser.run("document.activeElement.id") == "key"
        for key, shown in (("a wrong key", f"{ERROR}.includes('does not know')"), (KEY, IDLE)):
            browser.run(f"document.getElementById('key').value = {json.dumps(key)}")
            browser.run("document.querySelector('#entry button').click()")
            wait_for(browser, shown)
        assert browser.run("document.getElementById('entry').hidden && localStorage.length === 0")
        assert browser.run("document.cookie") == "" and KEY not in browser.run("location.href")
        path = write(tmp_path, int16(said(RATE)))
        choose_file(browser, path)
        wait_for(browser, f"{IDLE} && {SHOWN}.length > 0")
        assert len(browser.complaints) == 2 and all("401" in text for text in browser.complaints)
        browser.complaints.clear()
        stream = server.server.model(None).engine.open(lambda events: None, None, QUIET)
        choose_file(browser, path)
        wait_for(browser, f"{IDLE} && {ERROR}.includes('server is full')")
        stream.abandon()
        wait_until(lambda: server.server.ready)
        click(browser, "#start")
        wait_for(browser, f"{STATUS} === 'Listening.'")
        server.server.draining = True
        next(iter(server.server.connections)).finish()
        wait_for(browser, f"{IDLE} && {ERROR}.includes('shutting down')")
        click(browser, "#start")
        wait_for(browser, f"{IDLE} && {ERROR}.includes('full or shutting down')")
        browser.complaints.clear()
    finally:
        server.close()
    click(browser, "#start")
    wait_for(browser, f"{IDLE} && {ERROR}.includes('cannot be reached')")
    browser.complaints.clear()


def axe_core() -> Path | None:
    """axe.min.js of the npm package axe-core: what MAYA_AXE names, or a global installation's."""
    if named := os.environ.get("MAYA_AXE"):
        return Path(named)
    if shutil.which("npm") is None:
        return None
    root = subprocess.run(
        ["npm", "root", "--global"], capture_output=True, text=True, check=False
    ).stdout.strip()
    path = Path(root) / "axe-core" / "axe.min.js"
    return path if path.exists() else None


def test_axe_finds_no_serious_fault(page: Browser) -> None:
    script = axe_core()
    if script is None:
        pytest.skip(
            "npm's axe-core is missing: npm install -g axe-core, or name its axe.min.js with MAYA_AXE"
        )
    page.run(f"{script.read_text(encoding='utf-8')};0")
    faults = "r => r.violations.map(v => [v.impact, v.id, ...v.nodes.map(n => n.html.slice(0, 100))])"
    violations = page.run(f"axe.run().then({faults})")
    assert [fault for fault in violations if fault[0] in ("serious", "critical")] == []
    assert page.run("axe.run().then(r => r.passes.length)") > 10
