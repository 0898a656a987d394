"""egs/phonemes: what went wrong in other systems' phoneme recognisers, fused systems, backbones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egs.phonemes import backbones, evaluate, phonemes
from maya.config import override, to_dict
from maya.encoders import Encoded, MLPConfig, WhisperEncoderConfig
from maya.encoders.hugging_face.config import HuggingFaceConfig, features_for
from maya.errors import MayaError
from maya.features import LogMelConfig, WaveformConfig, WhisperMelConfig
from maya.heads import HeadContext, LossStep, UnitCTCConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from maya.score.pronunciation import phoneme_errors
from tests.encoders.hugging_face_models import WAVE, save, stock
from tests.heads.test_classify import ENCODERS, batch_of

UNITS = ("a", "b", "k", "s")
WHISPER = WhisperEncoderConfig(d_model=16, n_layers=2, heads=2, positions=100, whole=False)


def wave(kind: str) -> tuple[Any, Any]:
    cfg = HuggingFaceConfig(settings=json.dumps({"model_type": kind, **WAVE, "num_hidden_layers": 2}))
    return cfg, features_for(cfg)


def encoders() -> dict[str, tuple[Any, Any]]:
    return ENCODERS | {
        "whisper": (WHISPER, WhisperMelConfig(seconds=2.0)),
        "mlp": (MLPConfig(d_model=16, feat_in=80, context=2), LogMelConfig(dither=0.0)),
        "wav2vec2": wave("wav2vec2"),  # group norm in the front end, whose stock class sees padding
    }


def model_of(name: str, layers: Any = "last") -> SpeechModel:
    if name == "wav2vec2":
        pytest.importorskip("transformers", reason="transformers is not installed")
    encoder, features = encoders()[name]
    torch.manual_seed(1)
    heads: Any = {"phonemes": UnitCTCConfig(units=UNITS, layers=layers)}
    cfg = SpeechModelConfig(features=features, encoder=encoder, heads=heads, vocab_size=5)
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    return build_model(cfg).eval()


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("name", encoders())
@torch.no_grad()
def test_padding_changes_no_phoneme(name: str, layers: str) -> None:
    model = model_of(name, layers)
    head: Any = model.head("phonemes")
    batch = batch_of([1.6, 0.7, 1.1])
    together = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
    scores, said = head.log_probs(together), head.decode(together)
    for i, size in enumerate(batch.audio_lens.tolist()):
        alone = model.encode_audio(
            batch.audio[i : i + 1, :size], batch.audio_lens[i : i + 1], hidden=model.hidden
        )
        steps = int(alone.lens[0])
        assert steps == int(together.lens[i]) < 170  # frames of the utterance, not of 30 s
        assert torch.allclose(head.log_probs(alone)[0, :steps], scores[i, :steps], atol=1e-5)
        assert head.decode(alone)[0] == said[i]


def test_what_lies_beyond_the_end_counts_neither_in_the_loss_nor_in_the_phonemes() -> None:
    torch.manual_seed(1)
    head = UnitCTCConfig(units=UNITS).build(HeadContext(dim=8, labels=3, blank=3))
    batch = batch_of([3.0], {"phonemes": ["a b k s"]})
    frames, true = torch.randn(1, 1500, 8), torch.tensor([150])
    noise = frames.clone()
    noise[:, 150:] = 10 * torch.randn(1, 1350, 8)
    own = [head.losses(Encoded(x, true), batch, LossStep())["loss"] for x in (frames, noise)]
    assert torch.equal(*own) and head.decode(Encoded(frames, true)) == head.decode(Encoded(noise, true))


@torch.no_grad()
def test_full_lengths_are_a_per_of_hundreds_of_percent() -> None:
    """The fault of 236 %: CTC over all 1500 frames of Whisper's 30 s for a recording of 3 s."""
    torch.manual_seed(1)
    head = UnitCTCConfig(units=UNITS).build(HeadContext(dim=5, labels=3, blank=3))
    head.out.weight.copy_(20 * torch.eye(5))
    head.out.bias.zero_()
    true = [i % 4 for i in range(30)]
    frames = torch.zeros(1, 1500, 5)
    frames[0, torch.arange(30) * 5, torch.tensor(true)] = 1.0
    frames[0, 1:150:5, 4] = frames[0, 2:150:5, 4] = frames[0, 3:150:5, 4] = frames[0, 4:150:5, 4] = 1.0
    frames[0, 150:] = torch.randn(1350, 5)  # what an encoder makes of silence
    refs = [[UNITS[i] for i in true]]
    right, wrong = (
        phoneme_errors(refs, head.decode(Encoded(frames, torch.tensor([lens])))).rate for lens in (150, 1500)
    )
    assert right == 0.0 and wrong > 2.0
    cfg = SpeechModelConfig(
        features=WhisperMelConfig(seconds=2.0), encoder=replace(WHISPER, whole=True), vocab_size=5,
        heads={"phonemes": UnitCTCConfig(units=UNITS)},
    )  # fmt: skip
    with pytest.raises(MayaError, match="100 frames of any utterance"):
        build_model(cfg)


@torch.no_grad()
def test_a_stock_front_end_hears_padding() -> None:
    """Base wav2vec2: the first norm of transformers' class takes its statistics over padding too."""
    _, encoder = stock("wav2vec2")
    audio = 0.1 * torch.randn(1, 16000)
    padded = torch.nn.functional.pad(audio, (0, 16000))
    alone, together = encoder(audio).last_hidden_state, encoder(padded).last_hidden_state
    assert (together[:, : alone.shape[1]] - alone).abs().max() > 0.01


@pytest.mark.parametrize(
    "name", ["wav2vec2", "hubert", "wavlm", "data2vec", "w2v-bert", "whisper", "qwen2-audio", "ast"]
)
def test_a_folder_decides_the_sizes_of_a_backbone(name: str, tmp_path: Path) -> None:
    model, _ = stock(name)
    save(model, tmp_path, name)
    maker = {"wav2vec2": "wav2vec2_base", "hubert": "hubert_base", "wavlm": "wavlm_base",
             "data2vec": "data2vec_base",
             "w2v-bert": "w2v_bert", "whisper": "whisper_small", "qwen2-audio": "qwen2_audio"}  # fmt: skip
    exp = getattr(backbones, maker.get(name, name))()
    for option in backbones.folder_options(tmp_path):
        override(exp, option)
    exp.model.vocab_size = 5
    own = build_model(exp.model)
    own.encoder.read_start()
    head: Any = own.head("phonemes")
    assert exp.model.encoder.folder == str(tmp_path) and len(head.layers.weight) == 4
    batch = batch_of([1.0, 0.6], {"phonemes": ["k æ", "t"]})
    encoded = own.eval().encode_audio(batch.audio, batch.audio_lens, hidden=own.hidden)
    loss = head.losses(encoded, batch, LossStep())["loss"]
    loss.sum().backward()
    assert loss.isfinite().all() and head.layers.weight.grad.abs().max() > 0


def test_every_family_has_an_experiment() -> None:
    from maya.encoders.hugging_face.config import FAMILIES

    makers = [getattr(backbones, name) for name in vars(backbones) if name[0] != "_"]
    made = [m() for m in makers if callable(m) and getattr(m, "__module__", "") == backbones.__name__
            and not m.__code__.co_argcount]  # fmt: skip
    kinds = {exp.model.encoder.values["model_type"] for exp in made}
    assert kinds >= set(FAMILIES) - {"qwen2_audio"}  # of which qwen2_audio_encoder is the part that is used
    assert len({exp.name for exp in made}) == len(made) == 14
    for exp in made:
        cfg = exp.model.encoder
        assert "layerdrop" not in cfg.settings and exp.train.freeze == ("encoder",)
        if cfg.family.takes == "wave":
            assert isinstance(exp.model.features, WaveformConfig)


def test_fusion_and_vote_of_three_systems() -> None:
    head = UnitCTCConfig(units=UNITS).build(HeadContext(dim=4, labels=3, blank=3))

    def scores(*path: int) -> np.ndarray:
        rows = np.full((len(path), 5), 0.02)
        rows[np.arange(len(path)), path] = 0.92
        return np.log(rows)

    systems = [{"x": scores(0, 4, 1)}, {"x": scores(0, 4, 1)}, {"x": scores(0, 4, 2)}]
    fused = dict(evaluate.fused(systems, [head] * 3))
    assert fused[evaluate.MEAN]["x"] == fused[evaluate.VOTE]["x"] == ["a", "b"]
    other = UnitCTCConfig(units=("b", "a", "s", "k")).build(HeadContext(dim=4, labels=3, blank=3))
    assert list(dict(evaluate.fused(systems, [head, head, other]))) == [evaluate.VOTE]


def test_agreement_with_human_scores() -> None:
    head = UnitCTCConfig(units=UNITS).build(HeadContext(dim=4, labels=3, blank=3))
    rng, labels, scores = np.random.default_rng(1), {}, {}
    for number in range(30):
        canonical = [int(i) for i in rng.integers(0, 3, 6)]
        wrong = rng.random(6) < number / 60
        rows = np.full((12, 5), 0.02)
        rows[1::2, 4] = 0.92
        said = [3 if bad else i for i, bad in zip(canonical, wrong, strict=True)]
        rows[np.arange(0, 12, 2), said] = 0.92
        scores[str(number)] = np.log(rows)
        labels[str(number)] = {
            "canonical": " ".join(UNITS[i] for i in canonical), "speaker": str(number // 3),
            "phone_scores": " ".join("0" if bad else "2" for bad in wrong), "accuracy": str(10 - wrong.sum()),
        }  # fmt: skip
    result = evaluate.agreement(scores, head, labels)
    assert result["1 - PER and accuracy"]["pearson"][0] > 0.8
    assert result["GOP and phones"]["pearson"][0] > 0.9 and result["GOP, AUC"][0] > 0.95
    assert evaluate.agreement(scores, head, {"0": {"phonemes": "a"}}) == {}


def test_timit_is_folded_when_it_is_scored() -> None:
    labels = {"x": {"phonemes": "sil vcl d ao ix zh sil", "speaker": "s"}}
    cells, result = evaluate.measures({"x": ["sil", "d", "aa", "ih", "sh", "sil"]}, labels, 39)
    assert result["per"][0] == 0.0 and cells[1] == "0 0 0"


def test_experiments_have_one_data_set_and_frames_of_40_ms_or_less() -> None:
    assert len(set(phonemes.UNITS)) == len(phonemes.UNITS) == 49
    made = [
        phonemes.fastconformer(),
        phonemes.zipformer(),
        phonemes.lact(),
        phonemes.mlp(),
        phonemes.whisper(),
    ]
    for exp in made:
        assert exp.model.clock.seconds <= 0.04 and to_dict(exp.prepare) == to_dict(made[0].prepare)
