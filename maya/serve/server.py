"""What all protocols share: the models by name, the limits, and whether the server is going down."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maya.config import config
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import TranscriptionConfig
from maya.errors import MayaError
from maya.ranges import PosFloat, PosInt
from maya.serve.access import Access
from maya.serve.config import EngineConfig, SessionConfig
from maya.serve.engine import Engine
from maya.serve.journal import Journal
from maya.serve.metrics import Metrics
from maya.serve.offline import OfflineQueue, Rewriting
from maya.serve.session import live_model
from maya.serve.speech.config import SpeechConfig
from maya.serve.speech.engines import SpeechEngines
from maya.serve.translation.models import load_translator
from maya.serve.translation.queue import TranslationQueue

RootProtocol = Literal["maya", "vosk", "sherpa", "sherpa-offline"]


@config
class ServerConfig:
    """method, context: of live recognition, see `Recognizer.stream`. transcription: of files.

    rover_models: names of models that vote on the words of finals and of whole recordings; each model's own
    methods are in `session.rover`. The other models read the audio of each segment when it ends, in the
    thread of the sessions, which wait for it.
    translation: models, see `maya.serve.translation.models.load_translator`.
    upload_mb: 10^6 bytes of a file; upload_seconds: of its audio; uploads_waiting: files that may wait.
    session_seconds: of audio in a live session; idle_seconds: without a message, after which it ends.
    drain_seconds: for open sessions when the server goes down. root: the protocol of a WebSocket at `/`.
    """

    method: str = "auto"
    context: tuple[int, int] | None = None
    session: SessionConfig = field(default_factory=SessionConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    transcription: TranscriptionConfig = field(default_factory=TranscriptionConfig)
    upload_mb: PosFloat = 100.0
    upload_seconds: PosFloat = 4 * 3600.0
    uploads_waiting: PosInt = 64
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    translation: tuple[str, ...] = ()
    rover_models: tuple[str, ...] = ()
    session_seconds: PosFloat = 4 * 3600.0
    idle_seconds: PosFloat = 60.0
    drain_seconds: PosFloat = 30.0
    root: RootProtocol = "maya"


class UnknownModel(MayaError):
    """The server has no model of this name."""


@dataclass(eq=False, kw_only=True, slots=True)
class ServedModel:
    """A model, its engine for live sessions, and its queue for whole recordings."""

    name: str
    recognizer: Recognizer
    engine: Engine
    offline: OfflineQueue
    created: int = field(default_factory=lambda: int(time.time()))


def only_language(model: ServedModel) -> str | None:
    """The language of a model that has only one."""
    languages = model.recognizer.model.cfg.languages
    return languages[0] if len(languages) == 1 else None


class Server:
    """The state of a server. The first of `recognizers` is the default; names come from the command line
    alone, never from a client.

    Raises MayaError where a model has no method that decodes streams.
    """

    def __init__(
        self, recognizers: Mapping[str, Recognizer], cfg: ServerConfig | None = None, *,
        access: Access | None = None, journal: Journal | None = None,
    ) -> None:  # fmt: skip
        if not recognizers:
            raise MayaError("a server needs at least one model")
        self.cfg, self.access, self.metrics = cfg or ServerConfig(), access or Access(), Metrics()
        self.journal = journal or Journal()
        self.draining = False
        self.uploads = 0  # requests with a file that are being served
        self.connections: set[Any] = set()  # of `maya.serve.protocols.connection`
        self.speech = SpeechEngines(self.cfg.speech)
        self.translation = TranslationQueue([load_translator(spec) for spec in self.cfg.translation])
        self.models = {name: self._serve(name, recognizers) for name in recognizers}

    def _serve(self, name: str, recognizers: Mapping[str, Recognizer]) -> ServedModel:
        cfg, recognizer = self.cfg, recognizers[name]
        others = {n: own for n, own in recognizers.items() if n in cfg.rover_models and n != name}
        live = live_model(recognizer, cfg.method, cfg.context, others)
        live.heads.prepare(cfg.session)  # refuses at once what the model cannot do
        session = cfg.session
        rewriting = Rewriting(
            rover=session.rover, others=[*others.values()], vote=session.vote, punctuate=session.punctuate
        )
        offline = OfflineQueue(
            recognizer, waiting=cfg.uploads_waiting, max_seconds=cfg.upload_seconds, cfg=cfg.transcription,
            rewriting=rewriting,
        )  # fmt: skip
        engine = Engine(live, cfg.engine, observe=self.metrics.observe_step)
        return ServedModel(name=name, recognizer=recognizer, engine=engine, offline=offline)

    def model(self, name: str | None) -> ServedModel:
        """The model of a name; the default one for none, and for names of OpenAI's and Deepgram's models."""
        if name in (None, "", "default") or (name not in self.models and _is_foreign(name or "")):
            return next(iter(self.models.values()))
        if name not in self.models:
            names = ", ".join(self.models)
            raise UnknownModel(f"the model {name!r} does not exist; this server has {names}")
        return self.models[name or ""]

    @property
    def ready(self) -> bool:
        """Whether a new session would be taken."""
        free = (len(m.engine.streams) < self.cfg.engine.slots for m in self.models.values())
        return not self.draining and any(free)

    async def drain(self) -> None:
        """Take nothing new, end the live sessions so that each gets its last words, and wait for them."""
        self.draining = True
        deadline = time.monotonic() + self.cfg.drain_seconds
        for connection in list(self.connections):
            connection.finish()
        while (self.connections or self.uploads) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Stop the threads of all models, and the engines that speak."""
        self.speech.close()
        self.translation.close()
        for model in self.models.values():
            model.engine.close()
            model.offline.close()


def _is_foreign(name: str) -> bool:
    """Programs for OpenAI's and Deepgram's interfaces often cannot name another model."""
    return name == "whisper-1" or name.startswith(("gpt-", "nova-"))
