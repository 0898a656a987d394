"""CosyVoice, through the web server in its repository (runtime/python/fastapi): it needs an environment of
its own. The address is the operator's; no redirect is followed, and no proxy is used."""

import urllib.parse
import urllib.request

import numpy as np
from numpy.typing import NDArray

_RATE = 24000  # of CosyVoice 2 and 3
_SECONDS, _BYTES = 60.0, 1 << 26


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class CosyVoices:
    """argument: the server's address and the names of its speakers,
    http://127.0.0.1:50000/?speakers=NAME,NAME; &rate=22050 for CosyVoice 1."""

    def __init__(self, argument: str) -> None:
        parts = urllib.parse.urlsplit(argument)
        query = urllib.parse.parse_qs(parts.query)
        self.voices = [name for given in query.get("speakers", []) for name in given.split(",") if name]
        if parts.scheme not in ("http", "https") or not parts.netloc or not self.voices:
            raise ValueError("give the address as http://HOST:PORT/?speakers=NAME")
        self._rate = int(query.get("rate", [str(_RATE)])[0])
        self._url = f"{parts.scheme}://{parts.netloc}/inference_sft"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """See `Adapter`. CosyVoice's server takes no speed: another than 1 is refused."""
        if speed != 1.0:
            raise ValueError("CosyVoice's server speaks at speed 1 only")
        form = urllib.parse.urlencode({"tts_text": text, "spk_id": voice}).encode()
        with self._opener.open(self._url, form, timeout=_SECONDS) as answer:
            data = answer.read(_BYTES)
        return np.frombuffer(data[: len(data) // 2 * 2], "<i2"), self._rate
