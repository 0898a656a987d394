"""Voice activity: spans against a plain reference, silero's network against its own files, streams."""

import importlib.util
import json
import math
import pickle
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maya.audio.load import load_audio
from maya.audio.vad import SpanTracker, SpeechDetector, SpeechSpan, VADConfig, detector, speech_spans
from maya.audio.vad.energy import EnergyVAD, level_and_flatness
from maya.audio.vad.silero import SileroVAD, load_silero, packaged_weights, read_safetensors
from maya.errors import MayaError
from tools.bench import not_speech as sounds

WINDOW, RATE = 512, 16000


def probabilities(rng: np.random.Generator) -> list[float]:
    """Up to 400 windows, changing fast or slowly."""
    count, smooth = int(rng.integers(1, 400)), int(rng.integers(1, 12))
    noise = np.convolve(rng.random(count + smooth), np.ones(smooth) / smooth, "same")[:count]
    return np.clip(noise * rng.uniform(0.5, 1.6), 0, 1).tolist()


def options(rng: np.random.Generator, longest: tuple[float, ...]) -> VADConfig:
    return VADConfig(
        threshold=float(rng.uniform(0.3, 0.7)), min_speech_seconds=float(rng.choice([0, 0.1, 0.25])),
        min_silence_seconds=float(rng.choice([0, 0.1, 0.5, 2.0])),
        max_speech_seconds=float(rng.choice(longest)), pad_seconds=float(rng.choice([0, 0.03, 0.2, 0.4])),
        cut_pause_seconds=float(rng.choice([0.098, 0.5])),
    )  # fmt: skip


def reference(values: list[float], cfg: VADConfig, samples: int) -> list[tuple[int, int]]:
    """The rules in two passes over the whole recording: hysteresis and cuts, then padding."""
    raw, start, silence, pauses = [], None, None, []
    pad, enough = cfg.pad_seconds * RATE, cfg.min_speech_seconds * RATE
    for i, p in enumerate(values):
        here = i * WINDOW
        if p >= cfg.threshold and silence is not None:
            if here - silence > cfg.cut_pause_seconds * RATE:
                pauses.append((silence, here))
            silence = None
        if start is None:
            start = here if p >= cfg.threshold else None
            continue
        if here - start > cfg.max_speech_seconds * RATE - WINDOW - 2 * pad:
            if pauses:
                longest = max(pauses, key=lambda pause: pause[1] - pause[0])
                raw.append([start, longest[0]])
                start = longest[1]
            else:
                raw.append([start, here])
                start = here if p >= cfg.exit else None
            silence, pauses = None, []
        if start is not None and p < cfg.exit:
            silence = here if silence is None else silence
            if here - silence >= cfg.min_silence_seconds * RATE:
                raw += [[start, silence]] if silence - start > enough else []
                start, silence, pauses = None, None, []
    if start is not None and samples - start > enough:
        raw.append([start, samples])
    padded = [[max(0, s - pad), min(samples, e + pad)] for s, e in raw]
    for first, second, a, b in zip(raw, raw[1:], padded, padded[1:], strict=False):
        if second[0] - first[1] < 2 * pad:
            half = (second[0] - first[1]) // 2
            a[1], b[0] = first[1] + half, second[0] - half
    return [(int(s), int(e)) for s, e in padded]


def tracked(values: list[float], cfg: VADConfig, samples: int, seed: int) -> list[tuple[int, int]]:
    """The spans of `SpanTracker` for pushes of random sizes, in samples."""
    draw, tracker, spans, i = random.Random(seed), SpanTracker(cfg), [], 0
    while i < len(values):
        count = draw.randrange(1, 50)
        settled = tracker.settled
        new = tracker.push(values[i : i + count])
        assert all(span.start >= settled - 1 / RATE for span in new)
        spans += new
        i += count
    spans += tracker.finish(samples)
    return [(round(span.start * RATE), round(span.end * RATE)) for span in spans]


def test_spans_equal_the_reference() -> None:
    rng, cut = np.random.default_rng(0), 0
    for seed in range(1500):
        values, cfg = probabilities(rng), options(rng, (math.inf, 5.0, 2.0))
        samples = len(values) * WINDOW - int(rng.integers(0, WINDOW))
        expected = reference(values, cfg, samples)
        assert tracked(values, cfg, samples, seed) == expected
        assert all(a < b for a, b in expected)
        cut += any(a[1] == b[0] for a, b in zip(expected, expected[1:], strict=False))
    assert cut > 100


def test_spans_equal_those_of_the_package() -> None:
    """Without a limit of length, where the rules agree; see `maya.audio.vad.spans`. In another process, as
    its import changes torch's threads."""
    if packaged_weights() is None:
        pytest.skip("the package silero-vad is not installed")
    rng, cases = np.random.default_rng(1), []
    for seed in range(300):
        values, cfg = probabilities(rng), options(rng, (math.inf,))
        samples = len(values) * WINDOW - int(rng.integers(0, WINDOW))
        cases.append((values, cfg, samples, tracked(values, cfg, samples, seed)))
    code = """
import json, sys
from silero_vad.utils_vad import get_speech_timestamps_from_probs as spans
cases = json.load(sys.stdin)
found = [spans(values, audio_length_samples=n, **options) for values, options, n in cases]
json.dump([[(s["start"], s["end"]) for s in case] for case in found], sys.stdout)
"""
    sent = [
        (
            values,
            {
                "threshold": cfg.threshold, "min_speech_duration_ms": cfg.min_speech_seconds * 1000,
                "min_silence_duration_ms": cfg.min_silence_seconds * 1000,
                "speech_pad_ms": cfg.pad_seconds * 1000,
            },
            samples,
        )
        for values, cfg, samples, _ in cases
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(sent), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [[(a, b) for a, b in spans] for spans in json.loads(done.stdout)] == [own for *_, own in cases]


def test_tracker_does_not_grow_in_24_hours() -> None:
    rng, sizes = np.random.default_rng(2), []
    tracker = SpanTracker(VADConfig(max_speech_seconds=30.0))
    for _ in range(24):
        count = 3600 * RATE // WINDOW
        values = np.convolve(rng.random(count + 20), np.ones(20) / 20, "same")[:count] * 1.1
        spans = tracker.push(values.tolist())
        assert spans and max(span.duration for span in spans) <= 30.1
        sizes.append(len(pickle.dumps({k: v for k, v in vars(tracker).items() if k != "cfg"})))
    assert max(sizes) - min(sizes) < 50  # bytes, of larger numbers
    assert spans[-1].end > 23 * 3600


@pytest.fixture
def silero() -> SileroVAD:
    model = SileroVAD().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1)
    return model


def test_network_in_pieces_and_in_a_batch(silero: SileroVAD) -> None:
    audio = torch.randn(3, 40 * WINDOW) * 0.1
    whole, state = silero(audio, silero.initial_state(3))
    assert whole.shape == (3, 40) and whole.std() > 1e-3
    for row in range(3):
        alone, _ = silero(audio[row : row + 1], silero.initial_state(1))
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-6)
    parts, carried = [], silero.initial_state(3)
    for count in (1, 0, 7, 30, 2):
        begin = sum(p.shape[1] for p in parts) * WINDOW
        part, carried = silero(audio[:, begin : begin + count * WINDOW], carried)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-6)
    for a, b in zip(carried, state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    header, data = {}, b""
    for name, x in tensors.items():
        raw = x.numpy().astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": [*x.shape],
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_weights_from_safetensors(silero: SileroVAD, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights = {
        name.replace("lstm.", "lstm_cell.").replace("_l0", ""): x for name, x in silero.state_dict().items()
    }
    write_safetensors(path, weights)
    assert read_safetensors(path).keys() == weights.keys()
    for name, x in load_silero(path).state_dict().items():
        assert torch.equal(x, silero.state_dict()[name])
    write_safetensors(path, {"conv1.weight": torch.zeros(2)})
    with pytest.raises(MayaError, match="does not hold the weights of silero-vad's network"):
        load_silero(path)
    for content in (b"", b"\x05\0\0\0\0\0\0\0[1, 2]", b"\x10\0\0\0\0\0\0\0{"):
        path.write_bytes(content)
        with pytest.raises(MayaError, match="is not a safetensors file"):
            load_silero(path)
    (tmp_path / "a.jit").write_bytes(b"no archive")
    with pytest.raises(MayaError, match="is not a TorchScript file"):
        load_silero(tmp_path / "a.jit")
    with pytest.raises(MayaError, match=r"there is no file .*b.jit$"):
        load_silero(tmp_path / "b.jit")


def test_network_equals_the_packages_own(shared: Path) -> None:
    """Probabilities of real speech and of noise, against the TorchScript and the ONNX file of the package."""
    path = packaged_weights()
    if path is None:
        pytest.skip("the package silero-vad is not installed")
    threads, model = torch.get_num_threads(), load_silero()
    files = sorted((shared / "corpora" / "indic12").rglob("*.opus"))[:1000:100]
    audio = torch.cat([*map(load_audio, files), torch.from_numpy(sounds.pink_noise(5))])
    audio = audio[: len(audio) // WINDOW * WINDOW]
    own = model(audio[None], model.initial_state(1))[0][0]
    assert own.max() > 0.9 and own.min() < 0.1 and torch.get_num_threads() == threads
    script = torch.jit.load(str(path))
    script.reset_states()
    script_out = torch.cat([script(window[None], RATE) for window in audio.split(WINDOW)])[:, 0]
    torch.testing.assert_close(own, script_out, rtol=0, atol=1e-4)
    if importlib.util.find_spec("onnxruntime") is None:
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path.with_name("silero_vad.onnx")))
    state, context, outputs = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32), []
    for window in audio.split(WINDOW):
        samples = np.concatenate([context, window[None].numpy()], 1)
        output, state = session.run(None, {"input": samples, "state": state, "sr": np.array(RATE)})
        context = samples[:, -64:]
        outputs.append(output[0, 0])
    torch.testing.assert_close(own, torch.tensor(np.array(outputs)), rtol=0, atol=1e-4)


def speech_like(seconds: float = 20.0) -> torch.Tensor:
    """A voice of harmonics that comes and goes, over noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 9))
    active = (np.sin(2 * np.pi * 0.31 * t) > 0.2) * 0.1
    return torch.from_numpy((voice * active).astype(np.float32) + sounds.white_noise(seconds, -55))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_stream_gives_the_spans_of_the_recording(rate: int) -> None:
    from maya.audio.load import resample

    audio, cfg = resample(speech_like(), RATE, rate), VADConfig(detector="energy", pad_seconds=0.1)
    expected = speech_spans(audio, rate, cfg)
    assert len(expected) >= 5
    stream, draw = SpeechDetector(cfg, rate), random.Random(rate)
    for _ in range(2):  # the second time anew
        spans: list[SpeechSpan] = []
        i = 0
        while i < len(audio):
            count = draw.choice([1, 100, 511, 512, 5000, 100_000])
            spans += stream.push(audio[i : i + count])
            i += count
        assert spans + stream.finish() == expected
        assert not stream.speaking


def test_energy_finds_speech_and_ignores_noise() -> None:
    cfg = VADConfig(detector="energy", min_silence_seconds=0.3)
    audio = speech_like()
    spans = speech_spans(audio, RATE, cfg)
    t = torch.arange(len(audio)) / RATE
    active = torch.sin(2 * math.pi * 0.31 * t) > 0.2
    marked = torch.zeros(len(audio), dtype=torch.bool)
    for span in spans:
        marked[int(span.start * RATE) : int(span.end * RATE)] = True
    assert (marked & active).sum() > 0.98 * active.sum()
    assert (marked & ~active).sum() < 0.25 * (~active).sum()  # hangover
    for name in ("digital zero", "noise at -60 dB", "white noise", "pink noise", "coughs"):
        assert speech_spans(torch.from_numpy(sounds.NOT_SPEECH[name](20)), RATE, cfg) == [], name


def test_energy_of_rows_is_independent() -> None:
    model, audio = EnergyVAD(), torch.stack([speech_like(4), torch.from_numpy(sounds.fan(4))])
    audio = audio[:, : audio.shape[1] // WINDOW * WINDOW]
    both, _ = model(audio, model.initial_state(2))
    for row in range(2):
        alone, _ = model(audio[row : row + 1], model.initial_state(1))
        assert torch.equal(alone[0], both[row])
    levels, flatness = level_and_flatness(torch.from_numpy(sounds.white_noise(1.024, -20))[None])
    assert levels.mean() == pytest.approx(-20 + 10 * math.log10(3920 / 8000), abs=0.5)
    assert flatness.mean() == pytest.approx(math.exp(-0.577), abs=0.05)


def test_short_and_empty_audio() -> None:
    for count in (0, 1, 511, 513):
        assert speech_spans(torch.zeros(count), RATE, VADConfig(detector="energy")) == []


def test_the_choice_of_a_model_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, silero: SileroVAD, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    detector.load_vad.cache_clear()
    monkeypatch.setattr(detector, "packaged_weights", lambda: None)
    for _ in range(2):
        assert isinstance(SpeechDetector().model, EnergyVAD)
    assert caplog.messages == ["voice activity by energy; for silero's network: pip install silero-vad"]
    monkeypatch.setattr("maya.audio.vad.silero.packaged_weights", lambda: None)
    with pytest.raises(MayaError, match="the package silero-vad is not installed"):
        SpeechDetector(VADConfig(detector="silero"))
    path = tmp_path / "w.safetensors"
    write_safetensors(
        path, {n.replace("lstm.", "lstm_cell.").replace("_l0", ""): x for n, x in silero.state_dict().items()}
    )
    assert isinstance(SpeechDetector(VADConfig(weights=str(path))).model, SileroVAD)
    detector.load_vad.cache_clear()


def test_silero_ignores_what_is_not_speech(shared: Path) -> None:
    if packaged_weights() is None:
        pytest.skip("the package silero-vad is not installed")
    for name, sound in sounds.NOT_SPEECH.items():
        assert speech_spans(torch.from_numpy(sound(30)), RATE, VADConfig(detector="silero")) == [], name
    speech = load_audio(sorted((shared / "corpora" / "indic12" / "hi").rglob("*.opus"))[0])
    assert speech_spans(speech, RATE, VADConfig(detector="silero")) != []
