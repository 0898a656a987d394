"""Texts and recordings of one's own: spelling, words without letters, files, formats, errors."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import maya
from maya.align.aligner import AlignOptions, align, choose_head, words_from_spans
from maya.align.ctc import WILDCARD, SkipCosts, TokenSpans
from maya.align.reference import decode_and_align, time_differences, word_differences
from maya.align.text import SpelledText, guess_language, spell
from maya.align.windows import Windows, encode_windows, open_recording
from maya.data.table.table import Table
from maya.data.table.utterances import Utterances
from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.align import spoken
from maya.recipes.calibrate import CalibrateOptions, calibrate
from maya.recipes.cli import main
from maya.recipes.experiment import Experiment
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared tones and best.pt, an untrained model that writes random text."""
    top = tmp_path_factory.mktemp("align")
    tiny.prepare_run(tiny.experiment(), top, utterances=40)
    pieces = load_tokenizer(top / "run" / "tokenizer.model")
    cfg = with_vocabulary(tiny.experiment().model, pieces.vocab_size, ("en", "hi"))
    torch.manual_seed(1)
    model = build_model(cfg)
    with torch.no_grad():
        model.heads["ctc"].decoder_layers[0].weight *= 30  # type: ignore[operator,union-attr]
    checkpoint = Checkpoint(
        model_config=cfg, tokenizer=pieces, weights=model.state_dict(), step=0, notes={"experiment": "t"}
    )
    save_checkpoint(top / "run" / "best.pt", checkpoint)
    return top


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = {"en": ["the cat sat on the mat", "it is 10"], "hi": ["वह घर गया"]}
    return train_tokenizer(texts, TokenizerConfig(vocab_size=40))


def spelling(text: SpelledText, tokenizer: Tokenizer) -> list[str]:
    return ["*" if token == WILDCARD else tokenizer.pieces([token])[0] for token in text.tokens.tolist()]


def test_words_are_spelled_as_the_model_can(tokenizer: Tokenizer) -> None:
    text = spell("The CAT,\n\n— sat 10/1?", tokenizer, "en")
    assert text.words == ["The", "CAT,", "—", "sat", "10/1?"] and text.lines == [0, 0, 2, 2, 2]
    joined = "".join(spelling(text, tokenizer)).replace("▁", " ").split()
    assert joined == ["the", "cat", "sat", "10", "1"]
    assert set(text.owners.tolist()) == {0, 1, 3, 4} == set(text.owners_of_words.tolist())
    unknown = spell("cat xyz q", tokenizer, "en")
    assert spelling(unknown, tokenizer)[-2:] == ["*", "*"] and unknown.owners.tolist()[-2:] == [1, 2]
    assert guess_language("वह घर") == "hi" and guess_language("10") == "en"
    with pytest.raises(MayaError, match="no words"):
        spell(" \n", tokenizer, "en")


def test_words_without_letters_and_wildcards_need_a_spoken_neighbour() -> None:
    words, lines = ["a", "—", "b", "5", "c", "6"], [0, 0, 0, 0, 1, 1]
    text = SpelledText(
        words=words,
        lines=lines,
        tokens=np.array([1, 2, WILDCARD, 3, WILDCARD]),
        owners=np.array([0, 2, 3, 4, 5]),
    )
    spans = TokenSpans(
        np.array([5, -1, 8, -1, 9]), np.array([6, -1, 9, -1, 10]), np.array([0.5, 0.0, 0.9, 0.0, 0.9]), 0.0
    )
    placed = words_from_spans(text, spans, 0.1, 10.0)
    times = [(w.start, w.end) for w in placed]
    assert times[0] == (0.5, pytest.approx(0.6)) and times[1][0] == pytest.approx(0.6)
    assert times[2:] == [(None, None)] * 4  # 5 stands beside b, 6 beside c: neither is spoken


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_an_exact_text_gets_times_in_order(run: Path, head: str) -> None:
    recognizer = maya.load(run / "run", "cpu")
    entry = next(iter(Table.open(run / "data" / "dev.parquet").entries()))
    audio = entry.load_audio(16000)
    hyp = align(
        recognizer, audio, entry.text + " .", entry.language, options=AlignOptions(head=head, costs=None)
    )
    assert [w.text for w in hyp.words] == [*entry.text.split(), "."] and hyp.text == entry.text + " ."
    times = list(itertools.chain.from_iterable((w.start, w.end) for w in hyp.words))
    assert None not in times and times == sorted(times) and times[-1] <= len(audio) / 16000 + 1e-9  # type: ignore[operator,type-var]
    assert all(w.confidence is not None for w in hyp.words[:-1])
    skipping = align(recognizer, audio, entry.text, entry.language, options=AlignOptions(head=head))
    assert [w.text for w in skipping.words] == entry.text.split()


def test_windows_give_each_frame_once(run: Path, tmp_path: Path) -> None:
    recognizer = maya.load(run / "run", "cpu")
    samples = torch.randn(16000 * 9 + 777) * 0.05
    recording = open_recording(samples, 16000)
    frames = int(recognizer.model.cfg.clock.frames(len(samples)))
    whole = torch.cat(list(encode_windows(recognizer, recording, "en", conditioned=True)))
    small = Windows(seconds=2.0, context=0.5, rows=3)
    parts = list(encode_windows(recognizer, recording, "en", conditioned=True, windows=small))
    assert len(whole) == sum(map(len, parts)) == frames and len(parts) == 5
    soundfile.write(tmp_path / "a.wav", samples.numpy(), 16000, "FLOAT")
    assert torch.equal(open_recording(tmp_path / "a.wav", 16000).read(100, 900), samples[100:900])
    with pytest.raises(MayaError, match="too short to align"):
        list(encode_windows(recognizer, open_recording(samples[:10], 16000), None, conditioned=True))


def test_long_files_are_read_in_parts(tmp_path: Path) -> None:
    samples = 0.1 * torch.randn(16000 * 601)
    soundfile.write(tmp_path / "long.wav", samples.numpy(), 16000, "FLOAT")
    recording = open_recording(tmp_path / "long.wav", 16000)
    assert recording.samples == len(samples)
    for begin, end in ((0, 1000), (123456, 234567), (len(samples) - 5000, len(samples))):
        assert torch.equal(recording.read(begin, end), samples[begin:end])


def test_head_is_chosen_and_checked(run: Path) -> None:
    recognizer = maya.load(run / "run", "cpu")
    assert choose_head(recognizer) == "ctc" and choose_head(recognizer, "transducer") == "transducer"
    with pytest.raises(MayaError, match="'attention' is none in this model"):
        choose_head(recognizer, "attention")
    with pytest.raises(MayaError, match="name the language"):
        align(recognizer, torch.zeros(16000), "a", "auto")


def test_command_writes_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = next(iter(Table.open(run / "data" / "dev.parquet").entries()))
    soundfile.write(tmp_path / "a.wav", entry.load_audio(16000).numpy(), 16000)
    (tmp_path / "a.txt").write_text(f"{entry.text}\n— {entry.text}\n")
    files = [str(run / "run"), str(tmp_path / "a.wav"), str(tmp_path / "a.txt"), "--language", entry.language]
    assert main(["align", *files, "--exact", "--out", str(tmp_path / "o.json"), str(tmp_path / "o.ctm")]) == 0
    written = json.loads((tmp_path / "o.json").read_text())
    assert [w["word"] for w in written["words"]] == f"{entry.text} — {entry.text}".split()
    assert len(written["segments"]) == 2
    lines = (tmp_path / "o.ctm").read_text().splitlines()
    assert len(lines) == len(written["words"]) and lines[0].split()[4] == written["words"][0]["word"]
    assert "no word of the text without a place" in capsys.readouterr().err
    assert main(["align", *files, "--skip-cost", "0.001"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert any(w["start"] is None for w in printed["words"])
    assert main(["align", *files, "--out", str(tmp_path / "o.doc")]) == 1
    assert "unknown suffix '.doc'" in capsys.readouterr().err
    assert main(["align", files[0], files[1], str(tmp_path / "none.txt")]) == 1


def test_words_without_a_place_are_left_out_of_formats_with_times() -> None:
    from maya.decode.hypothesis import Hypothesis, TextSegment

    words = [Word(text="a", start=0.0, end=1.0), Word(text="b")]
    segments = [TextSegment(text="a b", words=words), TextSegment(text="c", words=[Word(text="c")])]
    shown = spoken(Hypothesis(text="a b c", words=[*words, Word(text="c")], segments=segments))
    assert shown.text == "a" and [s.text for s in shown.segments] == ["a"] and len(shown.words) == 1


def test_decoded_words_against_alignment(run: Path) -> None:
    recognizer = maya.load(run / "run", "cpu")
    table = Table.open(run / "data" / "dev.parquet")
    utterances = Utterances.from_table(table, recognizer.tokenizer, recognizer.model.cfg.languages)
    for method, tolerance in (("ctc", 0.0), ("transducer", 1.0)):
        decoder = recognizer.make_method(recognizer.choose_method(method))
        rows = list(decode_and_align(recognizer, utterances, decoder, method))
        differences = word_differences(rows, recognizer)
        assert len(differences.starts) > 10
        if tolerance == 0:  # greedy CTC takes the likeliest path
            assert not differences.starts.any() and not differences.ends.any()
    shifted = time_differences([([Word(text="a", start=1.5, end=2.5)], [Word(text="a", start=1.0, end=2.4)])])
    assert shifted.offset == 0.5
    assert shifted.facts(0.5) == pytest.approx(
        {"start_median": 0.0, "start_p95": 0.0, "end_median": 0.4, "end_p95": 0.4}
    )
    assert time_differences([]).facts() == {} and time_differences([]).offset == 0.0


def test_calibrate_writes_what_load_applies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment: Experiment = tiny.experiment()
    options = CalibrateOptions(check="test")
    checkpoint = run / "run" / "best.pt"
    measured = calibrate(
        experiment, run / "data", checkpoint, method="transducer", options=options, device="cpu"
    )
    out = capsys.readouterr().out
    assert "transducer: words are emitted" in out and "after, by halves" in out and "ECE %" in out
    recognizer = maya.load(run / "run", "cpu")
    rules = recognizer.word_rules("transducer")
    assert rules.offset_seconds == measured.offset_seconds and rules.curve == measured.curve
    assert measured.facts["confidence"]["before"]["words"] == measured.facts["words"] > 10
    (run / "run" / "best.calibration.json").unlink()


def test_costs_have_ranges() -> None:
    with pytest.raises(MayaError):
        SkipCosts(word=0.0)
