"""The library eSpeak NG, for pronunciations and for speech. It has one state for the whole process."""

import ctypes
import functools
import os

from maya.errors import MayaError

ESPEAK_RATE = 22050  # Hz
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback before espeak_Synth returns


@functools.cache
def library() -> ctypes.CDLL:
    """The initialised eSpeak NG of the `espeakng-loader` package; MayaError when it is not installed."""
    if not hasattr(os, "fork"):
        raise MayaError("eSpeak NG needs a system that can fork, such as Linux or macOS")
    try:
        import espeakng_loader
    except ImportError:
        raise MayaError("eSpeak NG is not installed: pip install 'maya-asr[mini]'") from None
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
