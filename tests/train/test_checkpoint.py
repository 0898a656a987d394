import copy
import errno
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

import maya
from maya.config import config
from maya.encoders import EncoderConfig
from maya.encoders.lact.fast_weights import FastWeightConfig
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.ranges import PosInt
from maya.recipes.lact_presets import lact_tiny
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from tests import tiny


@pytest.fixture(scope="module")
def made() -> ckpt.Checkpoint:
    tokenizer = train_tokenizer({"en": ["ab ba abba", "a b"], "hi": ["ab"]}, TokenizerConfig(vocab_size=8))
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages = tokenizer.vocab_size, ("en", "hi")
    return ckpt.Checkpoint(
        model_config=cfg,
        tokenizer=tokenizer,
        weights=build_model(cfg).state_dict(),
        step=7,
        notes={"why": "test"},
    )


def test_decoding_needs_only_the_file(made: ckpt.Checkpoint, tmp_path: Path) -> None:
    ckpt.save_checkpoint(tmp_path / "best.pt", made)
    recognizer = maya.load(tmp_path, device="cpu")
    assert recognizer.model.cfg == made.model_config and not recognizer.model.training
    assert recognizer.tokenizer.encode("abba ab") == made.tokenizer.encode("abba ab")
    for name, value in recognizer.model.state_dict().items():
        assert torch.equal(value, made.weights[name]), name
    hyps = recognizer.transcribe([torch.randn(8000) * 0.1, torch.randn(4000) * 0.1], language="hi")
    assert len(hyps) == 2 and hyps[0].language == "hi" and hyps[0].frame_seconds == pytest.approx(0.04)
    alone = recognizer.transcribe([torch.randn(0)])
    assert alone[0].text == ""
    with pytest.raises(MayaError, match="does not know the language 'fr'"):
        recognizer.transcribe([torch.randn(8000)], language="fr")
    with pytest.raises(MayaError, match="one-dimensional"):
        recognizer.transcribe([torch.randn(2, 8000)])


def test_a_full_disk_leaves_the_old_file_and_one_sentence(
    made: ckpt.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-0000001.pt"
    ckpt.save_checkpoint(path, made)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ckpt.os, "fsync", full)
    with pytest.raises(MayaError, match="No space left"):
        ckpt.save_checkpoint(path, made)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_full_device_while_torch_writes(made: ckpt.Checkpoint, tmp_path: Path) -> None:
    """/dev/full refuses every byte, so torch's own writer fails and not only our flush."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "a.pt.partial").symlink_to("/dev/full")
    with pytest.raises(MayaError, match="could not be written"):
        ckpt.save_checkpoint(tmp_path / "a.pt", made)
    assert not (tmp_path / "a.pt").exists() and not (tmp_path / "a.pt.partial").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_files_that_are_no_checkpoint_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content is None:
        torch.save({"format": "something else"}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(MayaError, match="x.pt is not a"):
        ckpt.load_checkpoint(path)


def test_nothing_pickled_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # noqa: ANN204
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": ckpt.FORMAT, "x": Evil()}, tmp_path / "x.pt")
    with pytest.raises(MayaError):
        ckpt.load_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="holds no checkpoint"):
        ckpt.find_checkpoint(tmp_path)


def test_all_random_states_are_restored() -> None:
    saved = ckpt.rng_state()
    first = (torch.rand(3), np.random.rand(3), random.random())
    ckpt.restore_rng(saved)
    again = (torch.rand(3), np.random.rand(3), random.random())
    assert torch.equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2] == again[2]


def test_random_state_of_a_gpu_is_restored_where_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the state of the process's own GPU is saved. Generators of the CPU stand for those of GPUs."""

    def machine(gpus: int, current: int) -> torch.Generator:
        generators = tuple(torch.Generator().manual_seed(gpu) for gpu in range(gpus))
        for name, value in {
            "is_available": True, "is_initialized": True, "current_device": current, "_lazy_init": None,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
            monkeypatch.setattr(torch.cuda.random, name, lambda value=value: value, raising=False)
        monkeypatch.setattr(torch.cuda.random, "_lazy_call", lambda call, **_: call())
        monkeypatch.setattr(torch.cuda, "default_generators", generators)
        return generators[current]

    before = machine(8, current=5)
    saved = ckpt.rng_state()
    after = machine(1, current=0)
    ckpt.restore_rng(saved)
    assert torch.equal(torch.rand(3, generator=before), torch.rand(3, generator=after))


def test_start_from_another_model(made: ckpt.Checkpoint, tmp_path: Path) -> None:
    ckpt.save_checkpoint(tmp_path / "averaged.pt", made)
    larger = with_vocabulary(made.model_config, made.model_config.vocab_size + 3, ("en",))
    model = build_model(larger)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    taken = ckpt.start_from(model, tmp_path, ["encoder"])
    assert taken == sum(v.numel() for k, v in before.items() if k.startswith("encoder."))
    for name, value in model.state_dict().items():
        source = made.weights[name] if name.startswith("encoder.") else before[name]
        assert torch.equal(value, source), name
    for part in ("ctc", "heads.ctc.decoder_layers"):
        with pytest.raises(MayaError, match=r"heads\.ctc.* there; give the experiment"):
            ckpt.start_from(model, tmp_path, ["encoder", part])
    with pytest.raises(MayaError, match="no part 'adapter'"):
        ckpt.start_from(model, tmp_path, ["adapter"])


def test_start_refuses_other_encoder_settings(made: ckpt.Checkpoint, tmp_path: Path) -> None:
    """Settings that do not change shapes would silently give another network with the same weights."""
    ckpt.save_checkpoint(tmp_path / "best.pt", made)
    other = copy.deepcopy(made.model_config)
    other.encoder.xscaling, other.features.preemphasis = not other.encoder.xscaling, 0.9
    other.encoder.dropout, other.features.dither = 0.7, 0.0  # of training alone: may differ
    message = r"give --model\.features\.preemphasis 0\.97 --model\.encoder\.xscaling true$"
    with pytest.raises(MayaError, match=message):
        ckpt.start_from(build_model(other), tmp_path, ["encoder"])
    unbiased = copy.deepcopy(made.model_config)
    unbiased.encoder.use_bias = False
    with pytest.raises(
        MayaError, match=r"it has encoder\.layers\.0\.\S+bias \(\d+,\) and this model has not"
    ):
        ckpt.start_from(build_model(unbiased), tmp_path, ["encoder"])


def test_start_refuses_other_settings_of_fast_weights_and_of_own_encoders(
    made: ckpt.Checkpoint, tmp_path: Path
) -> None:
    """Each encoder names its own settings without a shape."""

    @config
    class OwnConfig(EncoderConfig):
        traceless: ClassVar[tuple[str, ...]] = ("reversed_time", "label")

        kind: Literal["own_traceless"] = "own_traceless"
        feat_in: PosInt = 80
        d_model: PosInt = 32
        subsampling_factor: PosInt = 1
        reversed_time: bool = False
        label: str = "A b"

    lact = lact_tiny(d_model=32, n_layers=1, ff_dim=32, feat_in=made.model_config.features.num_mels)
    fast = copy.deepcopy(made.model_config.encoder)
    fast.fast_weights = FastWeightConfig()
    for encoder, changes, options in (
        (lact, {"rotary": False}, "--model.encoder.rotary true"),
        (lact, {"n_heads": 1}, f"--model.encoder.n_heads {lact.n_heads}"),
        (fast, {"fast_weights": FastWeightConfig(base_rate=1.0)},
         "--model.encoder.fast_weights.base_rate 10.0"),
        (OwnConfig(), {"label": "c", "reversed_time": True}, "--model.encoder.reversed_time false "
         "--model.encoder.label 'A b'"),
    ):  # fmt: skip
        saved, other = (replace(made.model_config, encoder=copy.deepcopy(encoder)) for _ in range(2))
        ckpt.refuse_other_meaning(tmp_path, saved, other)
        for name, value in changes.items():
            setattr(other.encoder, name, value)
        with pytest.raises(MayaError, match=re.escape(f"give {options}")):
            ckpt.refuse_other_meaning(tmp_path, saved, other)
