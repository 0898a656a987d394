import json
from pathlib import Path

import pytest
import torch

from egs.indic12 import fastconformer_tdt_ctc_1b
from maya.data.alignable import FrameClock
from maya.data.table import Table
from maya.data.token_table import open_tokens, token_path
from maya.encoders import FastConformerConfig, Zipformer, build_encoder
from maya.encoders.subsampling import subsampled_lens
from maya.features import Fbank, FbankConfig, LogMel, LogMelConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import normal_form
from maya.recipes.tokenizer import count_crowded, frame_clock, tokenizer
from maya.text.tokenizer import Tokenizer
from tests import tiny, tiny_zipformer
from tests.data.making import write_corpus, write_manifest


def test_the_stage_writes_a_tokenizer_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_corpus(tmp_path / "c")
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    made = Tokenizer.load(tmp_path / "run/tokenizer.model")
    report = json.loads((tmp_path / "run/tokenizer.json").read_text())
    assert report["vocab_size"] == made.vocab_size and report["options"]["vocab_size"] == 40
    texts = list(Table.open(tmp_path / "data/train.parquet").read("language", "text"))
    for code in ("en", "hi"):
        mine = [text for language, text in texts if language == code]
        pieces = sum(len(made.encode(text)) for text in mine)
        words = sum(len(text.split()) for text in mine)
        assert report["languages"][code]["pieces_per_word"] == pytest.approx(pieces / words)
        assert report["languages"][code]["unknown_characters"] == 0.0
    assert report["unknown_characters_of_dev"] == {"en": 0.0, "hi": 0.0}
    assert report["too_few_frames"]["frame_seconds"] == 0.08
    assert "pieces/word" in capsys.readouterr().out
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    assert "up to date" in capsys.readouterr().out


def test_characters_met_only_in_dev_are_unknown(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for row in rows:
        row["split"] = "dev" if row["speaker"] == "en-s0" else "train"
        row["text"] = "qqqq one" if row["split"] == "dev" else row["text"]
    write_manifest(tmp_path / "c", rows)
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    experiment.prepare.split.test = experiment.prepare.split.dev = 0.0
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    report = json.loads((tmp_path / "run/tokenizer.json").read_text())
    assert report["unknown_characters_of_dev"] == {"en": 0.5}


def test_utterances_with_too_few_frames_are_counted(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    made = Tokenizer.load(tmp_path / "run/tokenizer.model")
    table = Table.open(tmp_path / "data/train.parquet")
    tokens = open_tokens(token_path(tmp_path / "run", "train"), table, made)
    none = count_crowded(table, tokens, FrameClock(sample_rate=16000, hop_samples=1, subsampling=1))
    assert none == {"transducer": {}, "ctc": {}}
    a_frame_each = count_crowded(
        table, tokens, FrameClock(sample_rate=16000, hop_samples=16000, subsampling=8)
    )
    total = len(table)
    assert sum(a_frame_each["transducer"].values()) == total == sum(a_frame_each["ctc"].values())


def test_the_flagship_has_32k_pieces_and_no_unknown_text() -> None:
    experiment = fastconformer_tdt_ctc_1b.experiment()
    assert experiment.tokenizer == presets.tokenizer_32k()
    assert experiment.tokenizer.vocab_size == 32_768 and experiment.tokenizer.byte_fallback
    assert frame_clock(experiment.model, 1.0).subsampling == experiment.model.encoder.subsampling_factor


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello, World!", "en", "hello world"),
        ("नमस्ते। १२", "hi", "नमस्ते 12"),
        ("Fo⁇x, ⁇ Cat.", "en", "Fo⁇x, ⁇ cat"),
        ("Grüß Gott!", "de", "Grüß Gott!"),
    ],
)
def test_hypotheses_are_scored_in_the_normal_form_of_training(
    text: str, language: str, expected: str
) -> None:
    assert normal_form(text, language) == expected


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("factor", "causal"), [(8, False), (4, True), (8, True)])
def test_the_clock_counts_as_fastconformer_does(legacy: bool, factor: int, causal: bool) -> None:
    cfg = tiny.experiment().model
    assert isinstance(cfg.features, LogMelConfig) and isinstance(cfg.encoder, FastConformerConfig)
    cfg.features.legacy, cfg.encoder.subsampling_factor = legacy, factor
    cfg.encoder.causal_downsampling = causal
    samples = torch.arange(0, 6000, 7)
    front = LogMel(cfg.features).feat_lens(samples)
    clock = frame_clock(cfg, 1.0)
    expected = subsampled_lens(front, factor, causal)
    assert clock.frames_of(samples.numpy() / 16000).tolist() == expected.tolist()
    assert [clock.frames(n) for n in (0, 1279, 5999)] == [
        int(subsampled_lens(LogMel(cfg.features).feat_lens(torch.tensor(n)), factor, causal))
        for n in (0, 1279, 5999)
    ]


def test_the_clock_counts_as_zipformer_does() -> None:
    cfg = tiny_zipformer.config()
    assert isinstance(cfg.features, FbankConfig)
    samples = torch.arange(0, 6000, 7)
    front, encoder = Fbank(cfg.features), build_encoder(cfg.encoder)
    assert isinstance(encoder, Zipformer)
    expected = encoder.subsampled_lens(front.feat_lens(samples))
    assert frame_clock(cfg, 1.0).frames_of(samples.numpy() / 16000).tolist() == expected.tolist()
    assert expected[:200].eq(0).any() and expected[-1] == 8
