"""Checks of the sound: clipped, too quiet or loud, noisy, narrow-band, long silences, an offset.

`probe` measures the sound while it decodes (see maya.audio.sound). These checks compare it with limits.
"""

from collections.abc import Iterator, Sequence

from maya.audio.sound import Sound
from maya.config import config
from maya.data.corpus.manifest import Problem
from maya.data.measure.entry import Entry
from maya.data.measure.flags import Finding, check_drop, sort_out
from maya.data.measure.reasons import SOUND
from maya.ranges import Finite, NonNegFloat, Share


@config
class AudioCheckConfig:
    """drop: reasons (see maya.data.measure.reasons.SOUND) for which an utterance is dropped instead of
    flagged. max_clipped: share of samples at full scale, in runs of three or more.
    min_level, max_level: of active speech (ITU-T P.56), dB of full scale; speech is usually at -35 to -15.
    min_snr: dB, an estimate from the quietest frames. min_high_band: power above 5 kHz, dB of the whole:
    -50 to -20 in speech, under -60 in most of what was once at 8 kHz; files under 12 kHz are not judged.
    max_silence: seconds at either end. max_dc_offset: of full scale.
    """

    drop: tuple[str, ...] = ()
    max_clipped: Share = 0.001
    min_level: Finite = -45.0
    max_level: Finite = -9.0
    min_snr: Finite = 10.0
    min_high_band: Finite = -60.0
    max_silence: NonNegFloat = 2.0
    max_dc_offset: NonNegFloat = 0.02


def check_audio(
    entries: Sequence[Entry], cfg: AudioCheckConfig
) -> tuple[list[Entry], list[Problem], list[Problem]]:
    """(entries that are kept, their flags, entries dropped by cfg.drop), in order. Utterances that were not
    decoded have no findings. Raises MayaError for an unknown cfg.drop."""
    check_drop(cfg.drop, SOUND, "audio_checks.drop")
    findings = {
        entry.id: list(audio_findings(sound, cfg)) if (sound := entry.sound) else [] for entry in entries
    }
    return sort_out(entries, findings, cfg.drop)


def audio_limits(cfg: AudioCheckConfig) -> dict[str, list[float]]:
    """The values beyond which an utterance is flagged, by quantity of maya.data.report.statistics."""
    return {
        "level": [cfg.min_level, cfg.max_level],
        "snr": [cfg.min_snr],
        "high_band": [cfg.min_high_band],
        "silence": [cfg.max_silence],
    }


def audio_findings(sound: Sound, cfg: AudioCheckConfig) -> Iterator[Finding]:
    """The findings of one recording."""
    if sound.clipped > cfg.max_clipped:
        yield "clipped", f"{sound.clipped:.2%} of the samples stay at full scale"
    if sound.level < cfg.min_level:
        yield "too_quiet", f"speech at {sound.level:.0f} dBFS, below {cfg.min_level:g}"
    if sound.level > cfg.max_level:
        yield "too_loud", f"speech at {sound.level:.0f} dBFS, above {cfg.max_level:g}"
    if sound.snr < cfg.min_snr:
        yield "noisy", f"speech is about {sound.snr:.0f} dB above the noise, less than {cfg.min_snr:g}"
    if sound.high_band is not None and sound.high_band < cfg.min_high_band:
        yield "narrow_band", f"the power above 5 kHz is at {sound.high_band:.0f} dB of all: was it upsampled?"
    if max(sound.lead, sound.trail) > cfg.max_silence:
        yield "long_silence", f"{sound.lead:.1f} s of silence before the speech, {sound.trail:.1f} s after it"
    if abs(sound.dc_offset) > cfg.max_dc_offset:
        yield "dc_offset", f"the mean sample is {sound.dc_offset:+.3f} of full scale"
