"""Headless Chromium for tests of pages: it loads a file, runs JavaScript in it and takes pictures.

Chromium is driven through its DevTools protocol over a pipe (`--remote-debugging-pipe`: JSON messages that
end with a zero byte, file descriptors 3 and 4), so that no package is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0  # that an answer may take
# Of keys that have no letter: the number that Chromium wants, and the text that they write.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "ArrowDown": (40, ""), "Escape": (27, "")}
_FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--disable-extensions"),
    *("--autoplay-policy=no-user-gesture-required", "--disable-background-networking"),
)


def chromium() -> str:
    """The path of Chromium or Chrome; skips the test where none is installed."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


class Browser:
    """A Chromium with one page. complaints: errors of its console, exceptions, and failed requests.

    folder: of its profile. flags: more options of its command line."""

    def __init__(self, folder: Path, *flags: str) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()

        def connect() -> None:
            # First out of the way: either end may be 3 or 4 itself.
            ends = [os.dup(to_browser[0]), os.dup(from_browser[1])]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [chromium(), *_FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._write, self._read = to_browser[1], from_browser[0]
        self._buffer, self._number = b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self._events: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Raises RuntimeError where it fails."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        limit = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer within {SECONDS} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(first)
        self._note(answer)
        return answer

    def _note(self, message: dict[str, Any]) -> None:
        name, values = message.get("method", ""), message.get("params", {})
        self._events.append(name)
        if name == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif name == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value")) for a in values["args"]))
        elif name == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.complaints.append(values["entry"]["text"])

    def open(self, page: Path | str) -> None:
        """Load a file or an address, and wait for the end of loading."""
        self._events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._receive()

    def run(self, code: str) -> Any:
        """The value of an expression, which may be a promise. Raises RuntimeError for an exception."""
        result = self.send(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def window(self, width: int, height: int, *, scheme: str = "light", media: str = "") -> None:
        """Set the size in pixels, the colour scheme, and the medium ("print"; "" for the screen)."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def key(self, key: str) -> None:
        """Press a key in the page."""
        number, text = KEYS.get(key, (0, key if len(key) == 1 else ""))
        code = {"windowsVirtualKeyCode": number} if number else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=False)["data"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


def settle(browser: Browser) -> None:
    """Wait for two frames, and for what follows them."""
    frame = (
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 20))))"
    )
    browser.run(frame)


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).dispatchEvent("
                "new MouseEvent('click', {bubbles: true}))")  # fmt: skip


# The least contrast of the texts of a page, by tag and class (WCAG 2.2).
CONTRAST = """(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const parse = text => numbers(text).length < 4 ? [...numbers(text), 1] : numbers(text);
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const worst = {};
  for (const e of document.querySelectorAll('body *')) {
    const own = Array.from(e.childNodes).some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('script, option, datalist')) continue;
    let below = parse(getComputedStyle(document.documentElement).backgroundColor), opacity = 1;
    const chain = [];
    for (let p = e; p; p = p.parentElement) chain.unshift(p);
    for (const p of chain) opacity *= Number(getComputedStyle(p).opacity);
    for (const p of chain) below = over(parse(getComputedStyle(p).backgroundColor), below);
    const style = getComputedStyle(e);
    const colour = parse(e instanceof SVGElement ? style.fill : style.color);
    const shown = over([...colour.slice(0, 3), colour[3] * opacity], below);
    const [a, b] = [light(shown), light(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = e.tagName + '.' + e.className;
    worst[name] = Math.min(worst[name] ?? 99, ratio);
  }
  return worst;
})()"""
