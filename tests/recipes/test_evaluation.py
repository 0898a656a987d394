"""`maya score` on files, `maya rover`, and `maya evaluate` with noise, without speech, and streamed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maya.audio.noises import hum, pink_noise, telephone_tones, white_noise
from maya.data.loading.acoustics import add_noise
from maya.data.measure.entry import Entry
from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.evaluate import Source
from maya.recipes.evaluation.decoding import decode_audio
from maya.recipes.evaluation.noise import NoiseMaker, noise_ladder
from maya.recipes.evaluation.silence import silence_result, silence_test
from maya.recipes.evaluation.streams import stream_check, stream_result, stream_table
from tests import tones
from tests.decode.test_streaming import recognizer as streaming_recognizer

REFS = {"u1": "the cat sat", "u2": "a dog", "u3": ""}
HYPS = {"u1": "the cat sat", "u2": "a fog", "u3": "oh"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "ref.txt").write_text("".join(f"{k} {v}\n" for k, v in REFS.items()))
    (tmp_path / "hyp.trn").write_text("".join(f"{v} ({k})\n" for k, v in HYPS.items()))
    return tmp_path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Utterances of tones in Hindi."""
    top = tmp_path_factory.mktemp("tones")
    tones.make_corpus(top, utterances=6, languages=("hi",))
    return Source(audio=[], manifest=top / "manifest.jsonl").entries("hi")


def _score(top: Path, *options: str, hyp: str = "hyp.trn") -> dict:
    given = ["--ref", str(top / "ref.txt"), "--hyp", str(top / hyp), "--json", str(top / "out.json")]
    assert main(["score", *given, *options]) == 0
    return json.loads((top / "out.json").read_text())


def test_score_of_files(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _score(texts, "--language", "en", "--groups", "--num-samples", "1")
    assert result["pooled"]["words"] == {
        "reference": 5, "errors": 2, "substitutions": 1, "deletions": 0, "insertions": 1,
    }  # fmt: skip
    assert result["measures"]["languages"]["en"]["lenient_wer"] == pytest.approx(0.4)
    out = capsys.readouterr().out
    assert "lenient WER" in out and "REF: " in out
    (texts / "hot.txt").write_text("Dog\nthe cat\n")
    hot = _score(texts, "--language", "en", "--hot-words", str(texts / "hot.txt"))["measures"]["hot_words"]
    assert (hot["said"], hot["right"]) == (2, 1)
    (texts / "train.txt").write_text("The cat. The cat.\n")
    rare = _score(texts, "--language", "en", "--training-texts", str(texts / "train.txt"))["measures"]
    assert [r["words"] for r in rare["rare_words"]] == [3, 2, 0]  # sat, a, dog; the, cat


def test_normalizers_of_files(texts: Path) -> None:
    (texts / "ref.txt").write_text("u1 The cat sat.\nu2 a dog\nu3\n")
    assert _score(texts, "--language", "en")["pooled"]["words"]["errors"] == 2
    assert _score(texts, "--normalizer", "none")["pooled"]["words"]["errors"] == 4
    pytest.importorskip("whisper_normalizer")
    board = _score(texts, "--normalizer", "leaderboard")["pooled"]
    assert board["utterances"] == 2 and board["words"]["errors"] == 1


def test_files_that_do_not_fit(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, complaint in (
        ([str(texts), "--ref", str(texts / "ref.txt")], "--ref belongs to --hyp"),
        (["--hyp", str(texts / "hyp.trn")], "holds no references"),
        (
            ["--ref", str(texts / "ref.txt"), "--hyp", str(texts / "hyp.trn"), "--rare-below", "3"],
            "--training-texts",
        ),
    ):
        assert main(["score", *options]) == 1
        assert complaint in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", str(texts), "--hyp", "x"])
    assert "--hyp: not allowed with argument" in capsys.readouterr().err
    (texts / "less.txt").write_text("u1 the cat sat\n")
    assert main(["score", "--ref", str(texts / "ref.txt"), "--hyp", str(texts / "less.txt")]) == 1
    assert "have no hypothesis" in capsys.readouterr().err
    assert _score(texts, "--missing-as-empty", hyp="less.txt")["pooled"]["words"]["deletions"] == 2


def test_score_of_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ref.rttm").write_text(
        "SPEAKER r 1 0 4 <NA> <NA> ann <NA> <NA>\nSPEAKER r 1 4 4 <NA> <NA> bob <NA> <NA>\n"
    )
    (tmp_path / "hyp.rttm").write_text(
        "SPEAKER r 1 0 6 <NA> <NA> 1 <NA> <NA>\nSPEAKER r 1 6 2 <NA> <NA> 2 <NA> <NA>\n"
    )
    given = ["--ref", str(tmp_path / "ref.rttm"), "--hyp", str(tmp_path / "hyp.rttm"), "--speakers"]
    assert main(["score", *given]) == 0
    assert "DER 25.00 %" in capsys.readouterr().out
    pytest.importorskip("meeteval")
    (tmp_path / "ref.stm").write_text("r 1 ann 0 2 Hello there.\nr 1 bob 2 4 yes\n")
    (tmp_path / "hyp.stm").write_text("r 1 x 0 2 hello there\nr 1 y 2 4 no\n")
    given = [
        "--ref",
        str(tmp_path / "ref.stm"),
        "--hyp",
        str(tmp_path / "hyp.stm"),
        "--speakers",
        "--language",
        "en",
    ]
    assert main(["score", *given, "--json", str(tmp_path / "out.json")]) == 0
    scores = json.loads((tmp_path / "out.json").read_text())["scores"]
    assert [scores[n]["errors"] for n in ("cpWER", "tcpWER", "ORC-WER")] == [1, 1, 1] and scores["DER"][
        "rate"
    ] == 0


def test_rover_of_files(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": k, "text": v, "ref": REFS[k], "language": "en", "duration": 1.0} for k, v in HYPS.items()]
    (texts / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (texts / "b.txt").write_text("u1 the bat sat\nu2 A dog!\nu3\n")
    (texts / "c.trn").write_text("the cat sad (u1)\na dog (u2)\n(u3)\n")
    systems = [str(texts / name) for name in ("a.jsonl", "b.txt", "c.trn")]
    out = texts / "out.jsonl"
    assert main(["rover", *systems, "--out", str(out), "--language", "en"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["id"]: line["text"] for line in lines} == REFS  # the vote repairs every error
    assert all(line["ref"] == REFS[line["id"]] for line in lines)
    assert main(["score", "--hyp", str(out)]) == 0
    assert "0.00" in capsys.readouterr().out
    assert main(["rover", *systems, "--out", str(texts / "o.ctm")]) == 1
    assert "CTM needs the times" in capsys.readouterr().err
    assert (
        main(
            ["rover", systems[0], str(texts / "ref.txt"), "--out", str(texts / "o.trn"), "--vote", "avgconf"]
        )
        == 1
    )
    assert "confidences" in capsys.readouterr().err


def test_rover_of_ctm(tmp_path: Path) -> None:
    for name, word in (("a", "cat"), ("b", "cat"), ("c", "bat")):
        (tmp_path / f"{name}.ctm").write_text(f"r 1 0.0 0.5 the 0.9\nr 1 0.5 0.5 {word} 0.8\n")
    systems = [str(tmp_path / f"{name}.ctm") for name in "cab"]
    assert main(["rover", *systems, "--out", str(tmp_path / "out.ctm"), "--vote", "maxconf"]) == 0
    lines = [line.split() for line in (tmp_path / "out.ctm").read_text().splitlines()]
    assert [line[4] for line in lines] == ["the", "cat"] and lines[1][2] == "0.500"


def test_made_up_noise() -> None:
    rate, n = 16_000, 64_000
    for noise in (white_noise(n, 1), pink_noise(n, 1, rate), hum(n, rate)):
        assert noise.shape == (n,) and noise.dtype == torch.float32
        assert float(noise.square().mean()) == pytest.approx(1, rel=0.02)
    assert torch.equal(white_noise(n, 3), white_noise(n, 3))
    assert not torch.equal(white_noise(n, 3), white_noise(n, 4))
    power = np.abs(np.fft.rfft(pink_noise(n, 1, rate).numpy())) ** 2
    bands = [power[n * low // rate : n * 2 * low // rate].sum() for low in (100, 400, 1600)]
    assert max(bands) / min(bands) < 1.3  # the same power in every octave
    tones_ = telephone_tones(n, 0, rate)
    assert 0.5 < float(tones_.abs().max()) <= 1.0 and float(tones_[1700:3100].abs().max()) == 0
    assert len(pink_noise(0, 1, rate)) == 0


@pytest.mark.parametrize("kind", ["white", "pink", "babble", "folder"])
def test_noise_is_at_its_level(kind: str, corpus: list[Entry], tmp_path: Path) -> None:
    name = kind
    if kind == "folder":
        import soundfile

        soundfile.write(tmp_path / "n.wav", white_noise(8000, 0).numpy() * 0.1, 8000)
        name = str(tmp_path)
    maker = NoiseMaker(name, corpus, 16_000)
    audio = corpus[0].load_audio(16_000)
    noise = maker.noise(corpus[0].id, len(audio))
    assert torch.equal(noise, NoiseMaker(name, corpus, 16_000).noise(corpus[0].id, len(audio)))
    for level in (20.0, 0.0, -5.0):
        added = add_noise(audio, noise, level) - audio
        ratio = 10 * torch.log10(audio.square().mean() / added.square().mean())
        assert float(ratio) == pytest.approx(level, abs=0.1)


def test_noise_ladder(corpus: list[Entry]) -> None:
    model = streaming_recognizer()
    rungs = noise_ladder(model, corpus, "pink", [10.0, -60.0], method="ctc")
    assert [rung.snr_db for rung in rungs] == [None, 10.0, -60.0]
    audio = [entry.load_audio(16_000) for entry in corpus]
    clean = decode_audio(model, corpus, audio, "ctc", None)
    assert [u.hyp for u in rungs[0].report.utterances] == [" ".join(h.text.split()) for h in clean]
    assert {u.snr for u in rungs[2].report.utterances} == {-60.0}
    hyps = [[u.hyp for u in rung.report.utterances] for rung in rungs]
    assert hyps[0] != hyps[2]
    published = [entry._replace(raw_text=f"{entry.text.upper()}, X") for entry in corpus]
    (rung, *_) = noise_ladder(model, published, "pink", [10.0], method="ctc", normalizer="none")
    assert [u.ref for u in rung.report.utterances] == [entry.raw_text for entry in published]
    with pytest.raises(MayaError, match="there is no nothing-here"):
        NoiseMaker("nothing-here", corpus, 16_000)
    with pytest.raises(MayaError, match="only one"):
        NoiseMaker("babble", corpus[:1], 16_000)


def test_silence(tmp_path: Path) -> None:
    scores = silence_test(streaming_recognizer(), method="ctc", language="hi", minutes=0.1)
    assert len(scores) == 6 and all(s.minutes == pytest.approx(1 / 3) for s in scores)
    assert any(s.words > 0 for s in scores)  # an untrained model writes something
    assert [s.with_vad for s in scores[:4]] == [0] * 4  # silence and noise
    assert [r["words_per_minute"] for r in silence_result(scores)] == [s.words * 3 for s in scores]
    with pytest.raises(MayaError, match="not a file or folder with audio"):
        silence_test(streaming_recognizer(), [tmp_path], method="ctc", language="hi", minutes=0.1)


def test_streamed_against_offline(corpus: list[Entry]) -> None:
    """With the context that the stream has, both give one text; latencies are at least one chunk's rest."""
    model = streaming_recognizer()
    check = stream_check(model, corpus, method="ctc", chunk=0.1)
    assert check.changed == 0 and check.difference.difference == 0
    assert check.offline.pooled.words.errors == check.streamed.pooled.words.errors
    assert len(check.latencies) == len(corpus)
    frame = model.model.frame_seconds
    for latency in check.latencies:
        # A token cannot be there before its frame has begun, and not later than the look-ahead and a chunk.
        assert all(0 <= delay <= 0.1 + 8 * frame for delay in latency.tokens)
        assert latency.final > 0 and latency.compute >= latency.final
    assert "first token after its frame" in stream_table(check)
    json.dumps(stream_result(check), allow_nan=False)
    published = [entry._replace(raw_text=f"{entry.text.upper()}, X") for entry in corpus]
    other = stream_check(model, published, method="ctc", chunk=0.1, normalizer="none")
    for report in (other.offline, other.streamed):
        assert [u.ref for u in report.utterances] == [entry.raw_text for entry in published]
    slow = stream_check(model, corpus, method="ctc", chunk=0.5)
    assert np.mean([x.first for x in slow.latencies]) > np.mean([x.first for x in check.latencies])
    with pytest.raises(MayaError, match="cannot identify"):
        stream_check(model, corpus, method="ctc", language="auto")


def test_conditions_need_utterances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checked by evaluate_conditions before the model is loaded."""
    for option in (["--noise", "white"], ["--stream"]):
        assert main(["evaluate", str(tmp_path / "model.pt"), *option]) == 1
        assert "name what to evaluate" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "model.pt"), "--stream", "--hotwords", "x", "--groups"]) == 1
    assert "--hotwords and --groups do nothing with" in capsys.readouterr().err
