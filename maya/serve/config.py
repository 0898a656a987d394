"""Options of sessions and of the engine."""

from dataclasses import field

from maya.align.speakers.config import SpeakersConfig
from maya.audio.vad.config import Detector, VADConfig
from maya.config import config
from maya.decode.long.long_audio import speech_defaults
from maya.ranges import Limit, NonNegFloat, PosFloat, PosInt
from maya.score.rover import Vote


@config
class EndpointConfig:
    """When a segment ends; in seconds.

    silence_seconds: the voice detector has heard no speech for so long, and the decoder has read
        `settle_seconds` of it, with no token in the last of them; after twice as long tokens do not matter.
    trailing_seconds: without a voice detector, the decoder has read so much since its last token.
    max_seconds: a longer segment is cut at its longest gap between two words of its second half.
    """

    silence_seconds: PosFloat = 0.6
    settle_seconds: NonNegFloat = 0.4
    trailing_seconds: PosFloat = 1.2
    max_seconds: Limit = 20.0


def live_speech(detector: Detector = "auto", weights: str = "") -> VADConfig:
    """Voice activity of a session, with the thresholds of recordings: at silero-vad's own 0.5 single words of
    quiet voices are lost (docs/decoding.md)."""
    own = speech_defaults()
    return VADConfig(
        detector=detector, weights=weights, threshold=own.threshold, exit_threshold=own.exit_threshold
    )


@config
class SessionConfig:
    """block_seconds: audio is computed in blocks of this length, so events do not depend on how it arrives.
    partials: whether there are `Partial` events. vad: None for no voice detector; with one, text is only
    given where speech was heard. speakers: None for words without speakers; they need the detector. heads:
    whether finals hold what the heads say of their segment. rover: other methods of the same model that
    vote on the words of finals, with `vote`. punctuate: whether finals have punctuation and capitals, by
    the model's head for them."""

    block_seconds: PosFloat = 0.08
    partials: bool = True
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    vad: VADConfig | None = field(default_factory=live_speech)
    speakers: SpeakersConfig | None = None
    heads: bool = True
    rover: tuple[str, ...] = ()
    vote: Vote = "avgconf"
    punctuate: bool = False

    @property
    def keeps_frames(self) -> bool:
        """Whether something reads the frames of a segment once more."""
        return self.heads or self.punctuate or bool(self.rover)


@config
class EngineConfig:
    """slots: sessions at once. batch: sessions in one step of the model. backlog_seconds: audio of a session
    that may wait; who sends more must wait."""

    slots: PosInt = 64
    batch: PosInt = 32
    backlog_seconds: PosFloat = 30.0
