"""A model of any sample rate from `maya prepare` to `maya score`, on audio of any rate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

import maya
from maya.audio.load import load_audio, resample
from maya.convert import from_nemo, to_nemo
from maya.data.loading.loader import EvalLoader, TrainLoader
from maya.data.measure.entry import Entry
from maya.data.plan import BatchPlan
from maya.data.table.cuts import entry_cut
from maya.data.table.table import Table, part_path, write_table
from maya.data.table.utterances import Utterances
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.features import FbankConfig, LogMelConfig
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.memory.steps import synthetic
from tests import tiny, tones
from tests.tiny import LetterTokenizer

STORED = ((8000, 1), (16000, 1), (22050, 2), (24000, 1), (44100, 1), (48000, 2))  # rates and channels
FEATURES = {
    "logmel 8000": LogMelConfig(sample_rate=8000, dither=0.0),
    "logmel 16000": LogMelConfig(dither=0.0),
    "logmel 22050": LogMelConfig(sample_rate=22050, n_fft=1024, dither=0.0),
    "fbank 8000": FbankConfig(sample_rate=8000),
    "fbank 8000 to 3800 Hz": FbankConfig(sample_rate=8000, high_hz=3800.0),
    "fbank 24000": FbankConfig(sample_rate=24000),
}


def experiment_of(features: LogMelConfig | FbankConfig) -> Experiment:
    exp = tiny.experiment()
    exp.model.features = features
    del exp.model.heads["transducer"]
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.data.cache_gb = 0.01
    exp.data.augment.codec_prob, exp.data.augment.clean_share = 0.5, 0.0
    exp.decode.method = "ctc"
    exp.train.steps = exp.train.valid_every = exp.train.save_every = 3
    return exp


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tones at mixed rates, and data prepared from it for models of all rates."""
    top = tmp_path_factory.mktemp("rates")
    corpus = tones.make_corpus(top / "corpus")
    for i, path in enumerate(sorted(corpus.glob("*.wav"))):
        rate, channels = STORED[(i + i // 6) % len(STORED)]
        audio = soxr.resample(soundfile.read(path, dtype="float32")[0], tones.RATE, rate)
        soundfile.write(path, np.stack([audio] * channels, 1) * 0.9, rate)
    prepare(experiment_of(LogMelConfig(sample_rate=8000)), corpus, top / "data")
    return top


@pytest.fixture
def untrained(top: Path) -> Recognizer:
    """An untrained model at 8 kHz that writes random text."""
    lines = (top / "corpus" / "manifest.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    pieces = Tokenizer.train({"hi": texts * 3}, TokenizerConfig(vocab_size=20))
    torch.manual_seed(1)
    cfg = tiny.experiment().model
    cfg.features.sample_rate, cfg.language_embedding = 8000, False
    cfg.vocab_size, cfg.languages = pieces.vocab_size, ("hi",)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.heads["ctc"].decoder_layers[0].weight *= 30  # type: ignore[operator,union-attr]
    return Recognizer(model=model, tokenizer=pieces, device=torch.device("cpu"))


def test_table_has_the_stored_rates(top: Path) -> None:
    table = Table.open(part_path(top / "data", "train"))
    entries = list(table.entries())
    assert {entry.sample_rate for entry in entries} == {rate for rate, _ in STORED}
    for entry in entries:
        assert entry.duration == entry.num_samples / entry.sample_rate
        cut = entry_cut(entry)
        assert cut.sampling_rate == entry.sample_rate and cut.duration == entry.duration


@pytest.mark.parametrize("name", FEATURES)
def test_pipeline_at_any_rate(top: Path, tmp_path: Path, name: str) -> None:
    features, run, data = FEATURES[name], tmp_path / "run", top / "data"
    exp = experiment_of(replace(features))
    tokenizer(exp, data, run)
    pieces = json.loads((run / "tokenizer.json").read_text())
    assert pieces["too_few_frames"]["frame_seconds"] == pytest.approx(0.04, rel=3e-3)
    train(exp, data, run, cpu=True)
    decode(exp, data, run)
    report = score(run).report
    assert report is not None and len(report.utterances) == len(Table.open(part_path(data, "test")))
    table = Table.open(part_path(data, "test"))
    facts = json.loads((run / "decode/test/decode.json").read_text())
    assert facts["audio_seconds"] == pytest.approx(float(table.durations.sum()), abs=1e-3 * len(table))
    hyps = {h["id"]: h for h in map(json.loads, (run / "decode/test/hyps.jsonl").read_text().splitlines())}
    recognizer = maya.load(run, "cpu")
    assert recognizer.sample_rate == features.sample_rate
    for entry in table.entries():
        (hyp,) = recognizer.transcribe([entry.path], entry.language, method="ctc")
        assert (hyp.tokens, hyp.frames) == (hyps[entry.id]["tokens"], hyps[entry.id]["frames"])
        assert hyp.scores == pytest.approx(hyps[entry.id]["scores"], rel=1e-3, abs=1e-3)


def test_every_command_gives_the_same_text(
    top: Path, tmp_path: Path, untrained: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compares transcribe and evaluate on files, arrays and a table, with a .nemo archive at 8 kHz."""
    archive = tmp_path / "m.nemo"
    to_nemo(untrained, archive)
    loaded = from_nemo(archive)
    assert loaded.sample_rate == 8000
    rows = [json.loads(line) for line in (top / "corpus" / "manifest.jsonl").read_text().splitlines()][:12]
    rows = [row | {"language": "hi", "audio": str(top / "corpus" / row["audio"])} for row in rows]
    manifest = tmp_path / "m.jsonl"
    keep = ("id", "language", "text", "audio")
    manifest.write_text("".join(json.dumps({k: row[k] for k in keep}) + "\n" for row in rows))
    files = [row["audio"] for row in rows]
    command = ["evaluate", str(archive), "--manifest", str(manifest), "--method", "ctc"]
    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0
    evaluated = [u["text"] for u in json.loads((tmp_path / "out.json").read_text())["utterances"]]
    assert len(set(evaluated)) > 6, "the model does write something"
    capsys.readouterr()
    assert main(["transcribe", str(archive), *files, "--method", "ctc", "--vad", "off"]) == 0
    printed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert [printed[file] for file in files] == evaluated
    arrays = [load_audio(file, loaded.sample_rate) for file in files]
    assert [h.text for h in loaded.transcribe(arrays, method="ctc")] == evaluated


def test_stream_equals_transcribe(top: Path) -> None:
    """A causal model at 8 kHz gets pieces that are not a whole number of hops."""
    torch.manual_seed(0)
    cfg = tiny.experiment().model
    cfg.features = LogMelConfig(sample_rate=8000, dither=0.0, normalize="none")
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    cfg.encoder.att_context_style, cfg.encoder.att_context_size = "chunked_limited", ((6, 1),)
    cfg.encoder.causal_downsampling, cfg.encoder.conv_context = True, "causal"
    for features in (cfg.features, FbankConfig(sample_rate=8000)):
        network: Any = build_model(replace(cfg, features=features)).eval()
        with torch.no_grad():
            network.heads["ctc"].decoder_layers[0].weight *= 30
        letters: Any = LetterTokenizer()
        model = Recognizer(model=network, tokenizer=letters, device=torch.device("cpu"))
        for path in sorted((top / "corpus").glob("*.wav"))[:6]:
            (whole,) = model.transcribe([path], "hi", method="ctc")
            stream, audio = model.stream("hi", method="ctc"), load_audio(path, model.sample_rate)
            for piece in audio.split(37 + 411):
                stream.accept(piece)
            assert stream.finish().tokens == whole.tokens and len(whole.tokens) > 3


def test_loaders_resample_every_rate(top: Path) -> None:
    """Training and evaluation read the same samples from a table and from a user's lhotse CutSet."""
    table = Table.open(part_path(top / "data", "dev"))
    pieces = Tokenizer.train({"en": ["abcdefgh a b c d e f g h"] * 9}, TokenizerConfig(vocab_size=16))
    languages = ("en", "hi")
    from_table = Utterances.from_table(table, pieces, languages)
    whole = {e.id: load_audio(e.path, 8000) for e in table.entries()}
    for utterances in (from_table, Utterances.from_cuts(table.cuts(), pieces, languages)):
        exp = tiny.experiment()
        plan = BatchPlan(utterances.durations, utterances.token_counts, utterances.langs, exp.data.plan)
        options = {"cache_gb": 0.01, "sample_rate": 8000}
        trained = iter(TrainLoader(utterances, pieces, languages, plan, **options))  # type: ignore[arg-type]
        batches = [next(trained)[1] for _ in range(3 * plan.num_batches(0))]  # from the cache in the end
        batches += EvalLoader(utterances, pieces, languages, **options)  # type: ignore[arg-type]
        for batch in batches:
            assert batch.sample_rate == 8000
            for row, n, name in zip(batch.audio, batch.audio_lens, batch.ids, strict=True):
                assert torch.equal(row[:n], whole[name])
            assert batch.seconds == pytest.approx(sum(len(whole[i]) for i in batch.ids) / 8000)


def test_table_of_an_earlier_version_is_read(top: Path, tmp_path: Path) -> None:
    """Its durations are rounded to samples at 16 kHz, for whole recordings and for segments up to the end."""
    entries = list(Table.open(part_path(top / "data", "train")).entries())

    def at_16_khz(entry: Entry, start: float | None) -> Entry:
        seconds = entry.num_samples / entry.sample_rate - (start or 0.0)
        rounded = int(seconds * 16000 + 0.5) / 16000
        return entry._replace(id=f"{entry.id}-{start}", start=start, duration=rounded)

    older = [at_16_khz(entry, start) for entry in entries for start in (None, 0.0, 0.1234)]
    write_table(tmp_path / "train.parquet", older)
    table = Table.open(tmp_path / "train.parquet")
    for row, entry in enumerate(older):
        for rate in (8000, 16000):
            batch_audio = table.audio(row).load_audio(rate)
            assert abs(len(batch_audio) / rate - entry.duration) <= 1.5 / min(rate, entry.sample_rate)


def test_frame_clock_equals_the_encoder(top: Path) -> None:
    """For every rate of model and file, the computed frame count equals the encoder output."""
    table = Table.open(part_path(top / "data", "test"))
    for features in FEATURES.values():
        exp = experiment_of(features)
        cfg = replace(exp.model, vocab_size=20, languages=("en", "hi"))
        model = build_model(cfg).eval()
        counted = cfg.clock.frames_of(table.durations)
        for entry, frames in zip(table.entries(), counted.tolist(), strict=True):
            audio = load_audio(entry.path, features.sample_rate)
            _, lens = model.encode(audio[None], torch.tensor([len(audio)]))
            assert lens.item() == frames, (features, entry.id)


def test_a_batch_at_another_rate_is_refused() -> None:
    cfg = replace(experiment_of(LogMelConfig(sample_rate=8000)).model, vocab_size=20, languages=("en",))
    model = build_model(cfg)
    model(synthetic(1, 1.0, 3, 20, sample_rate=8000))
    with pytest.raises(MayaError, match="holds audio at 16000 Hz, and the model takes 8000 Hz"):
        model(synthetic(1, 1.0, 3, 20, sample_rate=16000))


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (FbankConfig(sample_rate=8000, high_hz=7600.0), "leave no band below half the sample rate"),
        (FbankConfig(sample_rate=8000, low_hz=3700.0), "leave no band below half the sample rate"),
        (
            LogMelConfig(sample_rate=24000),
            "the window of 600 samples has to hold one or more, and at most features.n_fft=512",
        ),
        (LogMelConfig(sample_rate=8000, hop_ms=0.1), "hop_ms=0.1 is less than a sample at 8000 Hz"),
        (FbankConfig(sample_rate=8000, hop_ms=0.1), "hop_ms=0.1 is less than a sample at 8000 Hz"),
    ],
)
def test_impossible_rates_are_refused(features: LogMelConfig | FbankConfig, sentence: str) -> None:
    with pytest.raises(MayaError, match=sentence):
        build_model(replace(experiment_of(features).model, vocab_size=20, languages=("en",)))


def test_resampled_length() -> None:
    audio = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for rate in (8000, 11025, 22050, 44100):
        assert len(resample(audio, rate, 16000)) == -(-1000 * 16000 // rate)


def test_8_khz_nemo_archive(
    shared: Path, top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`transcribe` and `evaluate` once differed for a .nemo archive at 8 kHz."""
    files = [str(path) for path in sorted((top / "corpus").glob("*.wav"))[:6]]
    archive = tmp_path / "rate8k.nemo"
    archive.write_bytes((shared / "cases/rate8k.nemo").read_bytes())
    assert main(["transcribe", str(archive), *files, "--vad", "off"]) == 0
    texts = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    printed = [texts[file] for file in files]
    command = ["evaluate", str(archive), *files, "--language", "en", "--json", str(tmp_path / "out.json")]
    assert main([*command, "--reference", *(["a b"] * len(files))]) == 0
    assert [u["text"] for u in json.loads((tmp_path / "out.json").read_text())["utterances"]] == printed
