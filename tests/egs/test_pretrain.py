"""egs/pretrain: teachers, k-means, and the recipe from speech to probes."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from egs.pretrain import pretrain
from egs.pretrain.targets import cepstral_teacher, k_means, nearest, voice_teacher
from maya.align.speakers.encoder import VoiceEncoder
from maya.errors import MayaError
from maya.text.phonemes import is_installed


def test_k_means_gives_each_heap_a_centre() -> None:
    heaps = 10 * torch.randn(6, 4)
    x = heaps.repeat(50, 1) + 0.1 * torch.randn(300, 4)
    centres = k_means(x, 6, seed=1)
    assert nearest(heaps, centres)[1].max() < 0.2
    assert torch.equal(centres, k_means(x, 6, seed=1))
    numbers, distances = nearest(x, centres)
    torch.testing.assert_close(distances, (x - centres[numbers]).norm(dim=1), atol=1e-2, rtol=0)
    assert nearest(torch.ones(9, 4), k_means(torch.ones(9, 4), 3, seed=1))[1].max() < 1e-3  # all frames alike
    with pytest.raises(MayaError, match="5 frames cannot make 6 clusters"):
        k_means(x[:5], 6, seed=1)


@torch.inference_mode()
def test_a_frame_of_the_voice_teacher_is_the_embedding_of_the_audio_before_it() -> None:
    encoder, audio = VoiceEncoder().eval(), 0.1 * torch.randn(16000 * 4)
    frames, mels = voice_teacher(encoder)(audio), encoder.mels(audio)
    assert frames.shape == (len(mels) // 2, 256)
    for row, begin, end in ((3, 0, 8), (60, 0, 122), (130, 160, 262)):  # windows begin each 0.8 s
        torch.testing.assert_close(frames[row], encoder(mels[None, begin:end])[0], atol=1e-5, rtol=1e-4)
    assert len(voice_teacher(encoder)(audio[:8000])) == 25


def test_cepstra_are_of_the_middle_of_20_ms() -> None:
    audio = torch.zeros(16000)
    audio[8000:] = 0.1 * torch.randn(8000)
    frames = cepstral_teacher()(audio)
    assert frames.shape == (50, 39)
    loud = frames[:, 0] > frames[:, 0].mean()
    assert not loud[:24].any() and loud[26:].all()


def test_a_recogniser_has_the_encoder_that_was_pretrained() -> None:
    after = pretrain.recogniser()
    for before in (pretrain.best_rq(), pretrain.clusters()):
        assert after.model.encoder == before.model.encoder and after.model.features == before.model.features


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")
@pytest.mark.parametrize("targets", ["best_rq", "mfcc"])
def test_the_recipe_runs_from_speech_to_probes(
    repo: Path, shared: Path, tmp_path: Path, targets: str
) -> None:
    """Recordings of indic12 of a few speakers, three steps, one pass of the probes."""
    for corpus in ("indic12", "digits"):
        source = shared / "corpora" / corpus
        (tmp_path / "source" / corpus).mkdir(parents=True)
        rows = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
        numbers: dict[str, int] = {}
        chosen = []
        for row in rows:
            numbers[row["speaker"]] = numbers.get(row["speaker"], 0) + 1
            if numbers[row["speaker"]] <= 6 and row["duration"] < 4:
                chosen.append(row | {"audio": str(source / row["audio"])})
        lines = "".join(json.dumps(row) + "\n" for row in chosen)
        (tmp_path / "source" / corpus / "manifest.jsonl").write_text(lines)
    options = {
        "--targets": targets, "--train.steps": 3, "--train.valid_every": 3, "--train.save_every": 3,
        "--data.valid_utterances": 4, "--passes": 1, "--source": tmp_path / "source",
        "--work": tmp_path / "work",
    }  # fmt: skip
    command = ["bash", str(repo / "egs/pretrain/run.sh"), "--cpu", "true"]
    command += [str(part) for pair in options.items() for part in pair]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kind = "best_rq" if targets == "best_rq" else "clusters"
    result = json.loads((tmp_path / "work" / f"{kind}-1" / "probes.json").read_text())
    assert len(result) == 2 and "random 1" in result
    for figures in result.values():
        assert set(figures) == {"language", "phonemes", "speaker"} and 0 <= figures["speaker"][0] <= 1
