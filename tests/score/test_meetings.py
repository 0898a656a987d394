"""Scores of recordings with several speakers: words through meeteval, and DER of our own."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow
from maya.score.meetings.diarization import best_pairs, diarization_errors
from maya.score.meetings.words import meeting_errors


def _turn(speaker: str, start: float, end: float, text: str = "", recording: str = "r") -> TranscriptRow:
    return TranscriptRow(
        id="", text=text, recording=recording, channel="1", speaker=speaker, start=start, end=end,
        seconds=end - start,
    )  # fmt: skip


def test_words_of_speakers() -> None:
    pytest.importorskip("meeteval")
    refs = [
        _turn("ann", 0, 2, "a b c"),
        _turn("bob", 2, 4, "d e"),
        _turn("ann", 4, 5, "f"),
        _turn("x", 0, 1, "g h", "s"),
    ]
    hyps = [
        _turn("1", 2, 4, "d e"),
        _turn("2", 0, 2, "a x c"),
        _turn("2", 4, 5, "f"),
        _turn("1", 0, 1, "g h", "s"),
    ]
    scores = {s.name: s for s in meeting_errors(refs, hyps)}
    assert list(scores) == ["cpWER", "tcpWER", "ORC-WER"]
    assert all(s.errors == s.substitutions == 1 and s.ref_length == 8 for s in scores.values())
    late = [_turn("2", 100, 102, "a b c"), _turn("2", 200, 201, "f"), hyps[0], hyps[3]]
    scores = {s.name: s for s in meeting_errors(refs, late)}
    assert scores["cpWER"].errors == 0 and scores["tcpWER"].errors == 8 and scores["ORC-WER"].errors == 0
    swapped = [_turn("1", 0, 2, "a b c"), _turn("1", 2, 4, "d e"), _turn("2", 4, 5, "f"), hyps[3]]
    scores = {s.name: s for s in meeting_errors(refs, swapped)}
    assert scores["cpWER"].errors > scores["ORC-WER"].errors == 0
    assert meeting_errors(refs, hyps[:3])[0].deletions == 2  # a recording that was not recognised
    with pytest.raises(MayaError, match="hold no recording 's'"):
        meeting_errors(refs[:3], hyps)


def test_without_meeteval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "meeteval", None)
    with pytest.raises(MayaError, match=r"maya-asr\[meetings\]"):
        meeting_errors([_turn("a", 0, 1, "x")], [_turn("a", 0, 1, "x")])


def test_der_by_hand() -> None:
    refs = [_turn("ann", 0, 10), _turn("bob", 10, 20)]
    score = diarization_errors(refs, [_turn("1", 0, 12), _turn("2", 12, 18), _turn("3", 21, 22)])
    assert (score.speech, score.missed, score.false_alarm, score.confusion) == (20.0, 2.0, 1.0, 2.0)
    assert score.rate == pytest.approx(0.25)
    # A collar of one second leaves 9 to 11 and the ends out.
    score = diarization_errors(refs, [_turn("1", 0, 12), _turn("2", 12, 18)], collar=1.0)
    assert (score.speech, score.missed, score.false_alarm, score.confusion) == (16.0, 1.0, 0.0, 1.0)
    both = [_turn("ann", 0, 10), _turn("bob", 5, 10)]
    assert diarization_errors(both, [_turn("1", 0, 10)]).missed == 5.0
    alone = diarization_errors(both, [_turn("1", 0, 10)], overlap=False)
    assert (alone.speech, alone.missed) == (5.0, 0.0)
    assert diarization_errors(refs, refs).rate == 0.0
    split = [_turn("ann", 0, 6), _turn("ann", 4, 10), _turn("bob", 10, 20)]
    assert diarization_errors(split, refs).rate == 0.0  # turns of one speaker that overlap are one
    with pytest.raises(MayaError, match="without times or speaker"):
        diarization_errors([TranscriptRow(id="a", text="")], refs)


def test_best_pairs_are_the_best() -> None:
    rng = np.random.default_rng(1)
    for n, m in itertools.product(range(1, 5), repeat=2):
        for _ in range(20):
            common = rng.integers(0, 6, (n, m)).astype(float)
            pairs = best_pairs(common)
            assert len(pairs) == min(n, m) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
            small = common if n <= m else common.T
            best = max(
                sum(small[i, j] for i, j in enumerate(order))
                for order in itertools.permutations(range(small.shape[1]), small.shape[0])
            )
            assert sum(common[i, j] for i, j in pairs) == best


@pytest.mark.parametrize(("collar", "regions"), [(0.0, "all"), (0.25, "all"), (0.25, "nooverlap")])
def test_der_equals_md_eval(collar: float, regions: str, tmp_path: Path) -> None:
    """NIST's script, where meeteval has it in its folder already: it would be downloaded."""
    meeteval = pytest.importorskip("meeteval")
    script = Path(meeteval.__file__).parent / "der" / "md-eval-22.pl"
    if not script.is_file() or not shutil.which("perl"):
        pytest.skip("meeteval has no md-eval-22.pl on this machine")
    import meeteval.der
    import meeteval.io

    rng = np.random.default_rng(5)
    for _ in range(10):
        sides = []
        for speakers in ("abc", "1234"):
            turns = []
            for speaker in speakers:
                time = 0.0
                for _ in range(6):
                    time += float(rng.integers(1, 400)) / 100
                    end = time + float(rng.integers(60, 500)) / 100
                    turns.append(_turn(speaker, round(time, 2), round(end, 2)))
                    time = end
            sides.append(turns)
        ends = [t.end or 0.0 for side in sides for t in side]
        starts = [t.start or 0.0 for side in sides for t in side]
        rttms = [
            meeteval.io.RTTM.parse(
                "".join(
                    f"SPEAKER r 1 {t.start:.2f} {t.seconds:.2f} <NA> <NA> {t.speaker} <NA> <NA>\n"
                    for t in side
                )
            )
            for side in sides
        ]
        uem = meeteval.io.UEM.parse(f"r 1 {min(starts):.2f} {max(ends):.2f}\n")
        expected = meeteval.der.md_eval_22(*rttms, collar=collar, regions=regions, uem=uem)["r"]
        ours = diarization_errors(*sides, collar=collar, overlap=regions == "all")
        assert float(expected.scored_speaker_time) == pytest.approx(ours.speech, abs=0.02)
        assert float(expected.missed_speaker_time) == pytest.approx(ours.missed, abs=0.02)
        assert float(expected.falarm_speaker_time) == pytest.approx(ours.false_alarm, abs=0.02)
        assert float(expected.speaker_error_time) == pytest.approx(ours.confusion, abs=0.02)
