"""What /metrics says, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SESSIONS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The measures of one server, in a registry of its own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.active = Gauge("maya_sessions_active", "Open live sessions.", ["protocol"], registry=own)
        self.rejected = Counter("maya_rejected_total", "Refused requests.", ["reason"], registry=own)
        self.audio = Counter("maya_audio_seconds_total", "Seconds of audio received.", ["kind"], registry=own)
        self.finals = Counter("maya_finals_total", "Final segments.", ["reason"], registry=own)
        self.errors = Counter("maya_errors_total", "Failures of the server.", ["kind"], registry=own)
        self.step = Histogram(
            "maya_step_seconds", "Time of a step of the model.", buckets=_SECONDS, registry=own
        )
        self.batch = Histogram("maya_batch_sessions", "Sessions in a step.", buckets=_SESSIONS, registry=own)
        self.offline = Histogram(
            "maya_offline_seconds",
            "Time of a whole recording.",
            buckets=(*_SECONDS, 10.0, 60.0),
            registry=own,
        )

    def observe_step(self, sessions: int, seconds: float) -> None:
        """For `Engine`."""
        self.step.observe(seconds)
        self.batch.observe(sessions)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
