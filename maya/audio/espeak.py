"""eSpeak NG through ctypes: one text in, samples out, the same bytes every time.

eSpeak carries state (pitch drift, noise, echo buffers) from one call to the next, so that an utterance
would depend on what was spoken before it, and seeds its noise from the clock. Every utterance is therefore
spoken with a fixed seed in a freshly forked child of a process that has only initialised the library: 10 to
20 ms each, and the result depends neither on order nor on the number of workers. Nothing here imports
torch, whose threads do not survive a fork.
"""

import ctypes
import os
import signal
import unicodedata

import numpy as np

from maya.errors import MayaError
from maya.text.espeak import library

RATE, VOLUME, PITCH, PITCH_RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_UTF8 = 1  # espeakCHARS_UTF8: the text is no markup, so it can name no file
_POS_CHARACTER = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def espeak_version() -> str:
    """The version of the eSpeak NG library, such as "1.52.0"."""
    return library().espeak_Info(None).decode().split()[0]


class _Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte), ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte), ("score", ctypes.c_int), ("spare", ctypes.c_void_p),
    )  # fmt: skip


def espeak_languages() -> list[str]:
    """Its languages, such as en-us or en-gb-scotland, sorted. Each is the name of a voice; en is British."""
    lib = library()
    lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    voices, codes, place = lib.espeak_ListVoices(None), set(), 0
    while voices[place]:
        codes.add(voices[place].contents.identifier.decode().rsplit("/", 1)[-1].lower())
        place += 1
    return sorted(codes)


def spoken(text: str, voice: str, parameters: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Samples of `text`, (N,) int16 at 22 050 Hz. voice: a language, and after a + a file of eSpeak's
    `voices/!v`. parameters: (number, value) each. Raises MayaError when eSpeak fails or is silent."""
    status, data = _in_child(text, voice, parameters)
    if status == 2:
        raise MayaError(f"eSpeak NG has no voice {voice}: pip install -U espeakng-loader")
    samples = np.frombuffer(data, dtype=np.int16)
    if status != 0 or not samples.any():
        raise MayaError(
            f"eSpeak NG was silent on {text!r} in {voice} (status {status}): pip install -U espeakng-loader"
        )
    return samples


def _in_child(text: str, voice: str, parameters: tuple[tuple[int, int], ...]) -> tuple[int, bytes]:
    """Exit status and int16 samples at 22 050 Hz of a forked child that finds eSpeak in its initial state."""
    lib = library()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            status = _child(lib, writer, text, voice, parameters)
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), data


def _child(
    lib: ctypes.CDLL, writer: int, text: str, voice: str, parameters: tuple[tuple[int, int], ...]
) -> int:
    chunks: list[bytes] = []

    def keep(wave, count, events) -> int:  # type: ignore[no-untyped-def]
        if wave and count > 0:
            chunks.append(ctypes.string_at(wave, 2 * count))
        return 0

    callback = _CALLBACK(keep)
    lib.espeak_SetSynthCallback(callback)
    lib.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of breath noise; eSpeak starts from the time of day
    ctypes.CDLL(None).srand(1)  # of noise in its Klatt synthesiser
    if lib.espeak_SetVoiceByName(voice.encode()) != 0:
        return 2
    for name, value in parameters:
        lib.espeak_SetParameter(name, value, 0)
    data = precomposed(text).encode()
    if lib.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _UTF8, None, None) != 0:
        return 3
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"".join(chunks))
    return 0


def precomposed(text: str) -> str:
    """`text` with the Bengali letters that Unicode always decomposes put together again.

    eSpeak's Bengali drops, and its Assamese spells out, words in which য় is written as য and a dot.
    """
    for letter in "\u09dc\u09dd\u09df":
        text = text.replace(unicodedata.normalize("NFC", letter), letter)
    return text
