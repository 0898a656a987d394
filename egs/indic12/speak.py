"""eSpeak NG through ctypes: one sentence in, 16 kHz samples out, the same bytes every time.

eSpeak carries state (pitch drift, noise, echo buffers) from one call to the next, so that an utterance
would depend on what was spoken before it, and seeds its noise from the clock. Every utterance is therefore
spoken with a fixed seed in a freshly forked child of a process that has only initialised the library: 10 to
20 ms each, and the result depends neither on order nor on the number of workers. Nothing here imports
torch, whose threads do not survive a fork.
"""

import ctypes
import functools
import os
import signal
import unicodedata

import numpy as np

from maya.errors import MayaError

SAMPLE_RATE = 16000
ESPEAK_RATE = 22050
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback before espeak_Synth returns
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_QUIETER = 50  # of 100: at 100 some voices reach full scale and clip inside eSpeak
_POS_CHARACTER = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_UP, _DOWN = 320, 441  # 16000 / 22050 in lowest terms
_HALF_TAPS = 24


@functools.cache
def library() -> ctypes.CDLL:
    """The initialised eSpeak NG of the `espeakng-loader` package; MayaError when it is not installed."""
    if not hasattr(os, "fork"):
        raise MayaError("the built-in corpus needs a system that can fork, such as Linux or macOS")
    try:
        import espeakng_loader
    except ImportError:
        raise MayaError(
            "the built-in corpus is spoken by eSpeak NG, which is not installed: pip install 'maya-asr[mini]'"
        ) from None
    try:
        lib = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise MayaError(
            f"eSpeak NG does not load ({error}): pip install --force-reinstall espeakng-loader"
        ) from None
    if not hasattr(lib, "espeak_ng_SetRandSeed"):
        raise MayaError("eSpeak NG is older than 1.52: pip install -U espeakng-loader")
    lib.espeak_Info.restype = ctypes.c_char_p
    folder = espeakng_loader.get_data_path()
    rate = lib.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(folder), 0)
    if rate != ESPEAK_RATE:
        raise MayaError(
            f"eSpeak NG did not start from {folder} (it answered {rate}): "
            "pip install --force-reinstall espeakng-loader"
        )
    return lib


def espeak_version() -> str:
    """The version of the eSpeak NG library, such as "1.52.0"."""
    return library().espeak_Info(None).decode().split()[0]


def speak(text: str, language: str, variant: str, *, rate: int, pitch: int, pitch_range: int) -> np.ndarray:
    """Samples of `text`, (N,) int16 at 16 kHz, peaks near a quarter of full scale.

    `variant` is a file of eSpeak's `voices/!v` ("f1", "Annie"); `rate` is in words a minute, `pitch` and
    `pitch_range` run from 0 to 99 with 50 the voice's own. Raises MayaError when eSpeak fails.
    """
    voice = f"{language}+{variant}"
    parameters = ((_RATE, rate), (_VOLUME, _QUIETER), (_PITCH, pitch), (_RANGE, pitch_range))
    status, data = _in_child(text, voice, parameters)
    if status == 2:
        raise MayaError(f"eSpeak NG has no voice {voice}: pip install -U espeakng-loader")
    samples = np.frombuffer(data, dtype=np.int16)
    if status != 0 or not samples.any():
        raise MayaError(
            f"eSpeak NG was silent on {text!r} in {voice} (status {status}): pip install -U espeakng-loader"
        )
    return resample(samples)


def add_surroundings(
    samples: np.ndarray, seed: int, *, lead: float, tail: float, peak: float, noise: float
) -> np.ndarray:
    """Scale to `peak` (of full scale), put `lead` and `tail` seconds around, lay white noise over it all.

    `samples` (N,) int16 -> (N + margins,) int16; `noise` is its RMS in units of one of the 65 536 steps.
    RandomState, because numpy promises that its numbers never change.
    """
    margins = [np.zeros(round(s * SAMPLE_RATE)) for s in (lead, tail)]
    scaled = samples * (peak * 32767 / np.abs(samples.astype(np.int32)).max())
    padded = np.concatenate([margins[0], scaled, margins[1]])
    padded += noise * np.random.RandomState(seed).standard_normal(len(padded))
    return np.clip(np.round(padded), -32768, 32767).astype(np.int16)


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
    data = _precomposed(text).encode()
    if lib.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _UTF8, None, None) != 0:
        return 3
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"".join(chunks))
    return 0


def _precomposed(text: str) -> str:
    """`text` with the Bengali letters that Unicode always decomposes put together again.

    eSpeak's Bengali drops, and its Assamese spells out, words in which য় is written as য and a dot.
    """
    for letter in "\u09dc\u09dd\u09df":
        text = text.replace(unicodedata.normalize("NFC", letter), letter)
    return text


@functools.cache
def _filters() -> np.ndarray:
    """One windowed-sinc low-pass per output phase, (320, 48) int64; each sums to 2**15, which is 1."""
    phase = np.arange(_UP)[:, None] * (_DOWN % _UP) % _UP / _UP
    time = np.arange(2 * _HALF_TAPS)[None, :] - (_HALF_TAPS - 1) - phase
    cutoff = 0.94 * _UP / _DOWN  # of the input's Nyquist frequency: 7.5 kHz; the slope ends near 8 kHz
    # Kaiser window, beta 9: 90 dB down outside
    window = np.i0(9.0 * np.sqrt(np.clip(1 - (time / _HALF_TAPS) ** 2, 0, 1))) / np.i0(9.0)
    taps = cutoff * np.sinc(cutoff * time) * window
    whole = np.round(taps / taps.sum(axis=1, keepdims=True) * 2**15).astype(np.int64)
    whole[:, _HALF_TAPS - 1] += 2**15 - whole.sum(axis=1)
    return whole


def resample(samples: np.ndarray) -> np.ndarray:
    """22 050 Hz to 16 kHz: (N,) int16 -> (ceil(N * 320 / 441),) int16.

    A 48-tap Kaiser-windowed sinc in integers: sums of integers have no rounding order, so that the bytes
    do not depend on numpy's build or the processor.
    """
    out = -(-len(samples) * _UP // _DOWN)
    padded = np.concatenate([np.zeros(_HALF_TAPS - 1, np.int64), samples, np.zeros(_HALF_TAPS + 1, np.int64)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF_TAPS)
    n = np.arange(out)
    sums = np.einsum("nk,nk->n", windows[n * _DOWN // _UP], _filters()[n % _UP])
    return np.clip((sums + 2**14) >> 15, -32768, 32767).astype(np.int16)
