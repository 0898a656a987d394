import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from egs.indic12 import fastconformer_tdt_ctc_1b
from maya.data.table.table import Table, part_path, write_table
from maya.data.table.token_table import open_tokens, token_path
from maya.encoders import FastConformerConfig, Zipformer
from maya.encoders.conformer.subsampling import subsampled_lens
from maya.errors import MayaError
from maya.features import Fbank, FbankConfig, LogMel, LogMelConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import count_crowded, tokenizer
from maya.score.measures.normalizers import normal_form
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint, step_path
from tests import tiny, tiny_zipformer
from tests.data.making import write_corpus, write_manifest


def test_stage_writes_tokenizer_and_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_corpus(tmp_path / "c")
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    made = load_tokenizer(tmp_path / "run/tokenizer.model")
    report = json.loads((tmp_path / "run/tokenizer.json").read_text())
    assert report["vocab_size"] == made.vocab_size and report["options"]["vocab_size"] == 40
    texts = list(Table.open(tmp_path / "data/train.parquet").read("language", "text"))
    for code in ("en", "hi"):
        language_texts = [text for language, text in texts if language == code]
        pieces = sum(len(made.encode(text)) for text in language_texts)
        words = sum(len(text.split()) for text in language_texts)
        assert report["languages"][code]["pieces_per_word"] == pytest.approx(pieces / words)
        assert report["languages"][code]["unknown_characters"] == 0.0
    assert report["unknown_characters_of_dev"] == {"en": 0.0, "hi": 0.0}
    assert report["too_few_frames"]["frame_seconds"] == 0.08
    assert "pieces/word" in capsys.readouterr().out
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    assert "up to date" in capsys.readouterr().out


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Experiment, Path]:
    """A run with a checkpoint, and a folder with its corpus c, data and run."""
    write_corpus(tmp_path / "c")
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    save_step(tmp_path / "run", load_tokenizer(tmp_path / "run/tokenizer.model"))
    return experiment, tmp_path


def save_step(run: Path, pieces: Tokenizer, step: int = 1) -> None:
    made = Checkpoint(
        model_config=tiny.experiment().model, tokenizer=pieces, weights={}, step=step, notes={}, training={}
    )
    save_checkpoint(step_path(run, step), made)


def grow(top: Path, experiment: Experiment, texts: list[str], language: str = "en") -> None:
    """Add training utterances from a new recording, prepared into the same folder."""
    shutil.copy(top / "c/en-000.wav", top / "c/more.wav")
    rows = [json.loads(line) for line in (top / "c/manifest.jsonl").read_text().splitlines()]
    for number, text in enumerate(texts):
        row = {"id": f"more-{language}-{len(rows)}-{number}", "language": language, "text": text,
               "audio": "more.wav", "speaker": "more", "split": "train"}  # fmt: skip
        rows.append(row)
    write_manifest(top / "c", rows)
    prepare(experiment, top / "c", top / "data")


def test_a_run_with_checkpoints_keeps_its_tokenizer(
    trained: tuple[Experiment, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, top = trained
    before = (top / "run/tokenizer.model").read_bytes()
    grow(top, experiment, ["seven", "ten nine", "one seven"] * 6)
    capsys.readouterr()
    tokenizer(experiment, top / "data", top / "run")
    out = capsys.readouterr().out
    assert "has checkpoints, so their tokenizer of 40 pieces is kept" in out and "up to date" not in out
    assert (top / "run/tokenizer.model").read_bytes() == before
    made, table = load_tokenizer(top / "run/tokenizer.model"), Table.open(top / "data/train.parquet")
    assert len(open_tokens(token_path(top / "run", "train"), table, made)) == len(table)
    tokenizer(experiment, top / "data", top / "run")
    assert "up to date" in capsys.readouterr().out
    tokenizer(experiment, top / "data", top / "run", force=True)
    assert (top / "run/tokenizer.model").read_bytes() == before
    tokenizer(experiment, top / "data", top / "new")  # a run without checkpoints gets its own tokenizer
    assert (top / "new/tokenizer.model").read_bytes() != before


def test_new_character_is_named(trained: tuple[Experiment, Path], capsys: pytest.CaptureFixture[str]) -> None:
    experiment, top = trained
    grow(top, experiment, ["one two three"] * 90 + ["z"])
    capsys.readouterr()
    tokenizer(experiment, top / "data", top / "run")
    assert "new characters without a piece (unknown): en z" in capsys.readouterr().out


def test_texts_with_many_unknown_characters_are_refused(trained: tuple[Experiment, Path]) -> None:
    experiment, top = trained
    files = {path.name: path.read_bytes() for path in (top / "run").glob("*.*")}
    grow(top, experiment, ["zzz jjj qq"] * 9)
    for force in (False, True):
        with pytest.raises(MayaError, match=r"no piece for \d+\.\d% of the .*\(en [jqz ]+\); choose another"):
            tokenizer(experiment, top / "data", top / "run", force=force)
    assert {path.name: path.read_bytes() for path in (top / "run").glob("*.*")} == files


@pytest.mark.parametrize(("name", "value"), [("vocab_size", 45), ("model_type", "unigram"), ("seed", 3)])
def test_another_vocabulary_is_refused_for_a_run_with_checkpoints(
    trained: tuple[Experiment, Path], name: str, value: object
) -> None:
    experiment, top = trained
    was = getattr(experiment.tokenizer, name)
    setattr(experiment.tokenizer, name, value)
    complaint = f"with {name}={was}, and tokenizer.{name}={value} is given now; choose another --name"
    with pytest.raises(MayaError, match=complaint):
        tokenizer(experiment, top / "data", top / "run")
    (top / "run/checkpoints/step-0000001.pt").unlink()
    tokenizer(experiment, top / "data", top / "run")


def test_a_run_with_checkpoints_refuses_another_corpus(trained: tuple[Experiment, Path]) -> None:
    """Refuses data that were prepared from elsewhere, and another --data. A grown corpus is accepted."""
    experiment, top = trained
    rows = write_corpus(top / "other")
    write_manifest(top / "other", [row | {"id": f"other-{row['id']}"} for row in rows])
    prepare(experiment, top / "other", top / "other-data")
    complaint = r"on another corpus than .*: of 24 of its utterances only 0 are there; choose another --name"
    with pytest.raises(MayaError, match=complaint):
        tokenizer(experiment, top / "other-data", top / "run")
    grow(top, experiment, ["one two"] * 60)
    tokenizer(experiment, top / "data", top / "run")


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_tokenizer_is_restored_from_the_checkpoints(trained: tuple[Experiment, Path], what: str) -> None:
    experiment, top = trained
    path = top / "run/tokenizer.model"
    before = path.read_bytes()
    path.unlink()
    if what == "replaced":
        train_tokenizer({"en": ["other", "letters"]}, TokenizerConfig(vocab_size=15)).save(path)
    tokenizer(experiment, top / "data", top / "run")
    assert path.read_bytes() == before


def test_a_damaged_newest_checkpoint_does_not_hide_the_tokenizer(trained: tuple[Experiment, Path]) -> None:
    experiment, top = trained
    before = (top / "run/tokenizer.model").read_bytes()
    step_path(top / "run", 2).write_bytes(b"half")
    tokenizer(experiment, top / "data", top / "run", force=True)
    assert (top / "run/tokenizer.model").read_bytes() == before
    step_path(top / "run", 1).write_bytes(b"half")
    with pytest.raises(MayaError, match="step-0000002.pt is not a readable checkpoint"):
        tokenizer(experiment, top / "data", top / "run", force=True)


INPUTS: dict[str, Callable[[Experiment, Path], object]] = {
    "texts": lambda exp, top: grow(top, exp, ["one one"]),
    "texts of dev": lambda exp, top: write_table(part_path(top / "data", "dev"), []),
    "vocabulary": lambda exp, _: setattr(exp.tokenizer, "vocab_size", 41),
    "frames": lambda exp, _: setattr(exp.model.encoder, "subsampling_factor", 4),
    "speed": lambda exp, _: setattr(exp.data, "speed_perturb", (1.0, 1.2)),
    "tokens": lambda _, top: token_path(top / "run", "train").unlink(),
    "report": lambda _, top: (top / "run/tokenizer.json").unlink(),
    "model": lambda _, top: (top / "run/tokenizer.model").write_bytes(b"other"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_makes_the_stage_run_again(
    trained: tuple[Experiment, Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    experiment, top = trained
    step_path(top / "run", 1).unlink()
    tokenizer(experiment, top / "data", top / "run")
    INPUTS[kind](experiment, top)
    capsys.readouterr()
    tokenizer(experiment, top / "data", top / "run")
    assert "up to date" not in capsys.readouterr().out
    tokenizer(experiment, top / "data", top / "run")
    assert "up to date" in capsys.readouterr().out


def test_changed_audio_keeps_the_tokenizer(trained: tuple[Experiment, Path]) -> None:
    """Files with other times give another table, so its tokens are written again."""
    experiment, top = trained
    step_path(top / "run", 1).unlink()
    before = (top / "run/tokenizer.model").read_bytes()
    for path in (top / "c").glob("*.wav"):
        os.utime(path, (5, 5))
    prepare(experiment, top / "c", top / "data")
    tokenizer(experiment, top / "data", top / "run")
    assert (top / "run/tokenizer.model").read_bytes() == before


def test_data_without_dev(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    experiment = Experiment(name="test", languages=("en", "hi"))
    experiment.tokenizer.vocab_size = 40
    experiment.prepare.split.dev = experiment.prepare.split.test = 0.0
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    assert json.loads((tmp_path / "run/tokenizer.json").read_text())["unknown_characters_of_dev"] == {}


def test_characters_only_in_dev_are_unknown(tmp_path: Path) -> None:
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
    made = load_tokenizer(tmp_path / "run/tokenizer.model")
    table = Table.open(tmp_path / "data/train.parquet")
    tokens = open_tokens(token_path(tmp_path / "run", "train"), table, made)
    none = count_crowded(table, tokens, (table.durations * 16000).astype(np.int64))
    assert none == {"transducer": {}, "ctc": {}}
    a_frame_each = count_crowded(table, tokens, np.ones(len(table), np.int64))
    total = len(table)
    assert sum(a_frame_each["transducer"].values()) == total == sum(a_frame_each["ctc"].values())


def test_the_flagship_has_32k_pieces_and_no_unknown_text() -> None:
    experiment = fastconformer_tdt_ctc_1b.experiment()
    assert experiment.tokenizer == presets.tokenizer_32k()
    assert experiment.tokenizer.vocab_size == 32_768 and experiment.tokenizer.byte_fallback
    assert experiment.model.clock.seconds == 0.01 * experiment.model.encoder.subsampling_factor


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello, World!", "en", "hello world"),
        ("नमस्ते। १२", "hi", "नमस्ते 12"),
        ("Fo⁇x, ⁇ Cat.", "en", "Fo⁇x, ⁇ cat"),
        ("Grüß Gott!", "de", "grüß gott"),
    ],
)
def test_hypotheses_are_scored_in_the_normal_form_of_training(
    text: str, language: str, expected: str
) -> None:
    assert normal_form(text, language) == expected


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("factor", "causal"), [(8, False), (4, True), (8, True)])
def test_clock_equals_fastconformer(legacy: bool, factor: int, causal: bool) -> None:
    cfg = tiny.experiment().model
    assert isinstance(cfg.features, LogMelConfig) and isinstance(cfg.encoder, FastConformerConfig)
    cfg.features.legacy, cfg.encoder.subsampling_factor = legacy, factor
    cfg.encoder.causal_downsampling = causal
    samples = torch.arange(0, 6000, 7)
    front = LogMel(cfg.features).feat_lens(samples)
    clock = cfg.clock
    expected = subsampled_lens(front, factor, causal)
    assert clock.frames_of(samples.numpy() / 16000).tolist() == expected.tolist()
    assert [clock.frames(n) for n in (0, 1279, 5999)] == [
        int(subsampled_lens(LogMel(cfg.features).feat_lens(torch.tensor(n)), factor, causal))
        for n in (0, 1279, 5999)
    ]


def test_clock_equals_zipformer() -> None:
    cfg = tiny_zipformer.config()
    assert isinstance(cfg.features, FbankConfig)
    samples = torch.arange(0, 6000, 7)
    front, encoder = Fbank(cfg.features), cfg.encoder.build()
    assert isinstance(encoder, Zipformer)
    expected = encoder.subsampled_lens(front.feat_lens(samples))
    assert cfg.clock.frames_of(samples.numpy() / 16000).tolist() == expected.tolist()
    assert expected[:200].eq(0).any() and expected[-1] == 8
