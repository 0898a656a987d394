"""Options of speech output."""

from maya.config import config
from maya.ranges import PosFloat, PosInt


@config
class SpeechConfig:
    """engines: NAME or NAME=ARGUMENT, see `maya.serve.speech.adapters`; the first is the default.
    start_seconds: for an engine to load; request_seconds: for one piece of text, after which its process is
    ended. waiting: requests at once; characters: of one.
    """

    engines: tuple[str, ...] = ()
    start_seconds: PosFloat = 120.0
    request_seconds: PosFloat = 60.0
    waiting: PosInt = 16
    characters: PosInt = 4096
