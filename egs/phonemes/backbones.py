"""Phonemes by CTC from encoders of transformers: frozen, with learnt weights of their layers, as SUPERB does.

Run:    ./egs/phonemes/run.sh --experiment backbones:wavlm_large --folder DIR
        python -m egs.phonemes.backbones DIR    prints the options of a folder, a line each

The folder is that of a model as Hugging Face keeps it; its config.json takes the place of the sizes below,
which are those of the published models. Without --folder the weights are random.
"""

import json
import sys
from pathlib import Path
from typing import Any

from egs.phonemes.phonemes import UNITS, frame_experiment
from maya.config import leaves
from maya.encoders.hugging_face.config import HuggingFaceConfig, features_for, hugging_face
from maya.errors import MayaError
from maya.features import SpecAugmentConfig
from maya.heads import UnitCTCConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_LARGE: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
}  # fmt: skip
# Of large wave models: layer norms in the front end, and norms before the layers.
_STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}


def _experiment(name: str, kind: str, upsampling: int = 1, **settings: Any) -> Experiment:
    """Layers are summed by the head; the encoder is frozen, so its own sum would stay even."""
    cfg = HuggingFaceConfig(settings=json.dumps({"model_type": kind, **settings}))
    features = features_for(cfg)
    model = SpeechModelConfig(
        features=features, encoder=cfg, specaugment=SpecAugmentConfig(time_masks=0, freq_masks=0)
    )
    head = UnitCTCConfig(units=UNITS, layers="all", dropout=0.1, upsampling=upsampling)
    exp = frame_experiment(f"backbones_{name}", model, head)
    exp.data.plan.max_seconds = 120.0
    exp.train.freeze = ("encoder",)
    exp.train.lr, exp.train.weight_decay, exp.train.steps = 3e-3, 1e-2, 5000
    return exp


def wav2vec2_base() -> Experiment:
    return _experiment("wav2vec2_base", "wav2vec2", **_BASE)


def wav2vec2_large() -> Experiment:
    return _experiment("wav2vec2_large", "wav2vec2", **_LARGE, **_STABLE)


def xls_r_300m() -> Experiment:
    return _experiment("xls_r_300m", "wav2vec2", **_LARGE, **_STABLE)


def mms_300m() -> Experiment:
    """MMS as it was pre-trained. Of its recognisers, which have adapters: --model.encoder.language eng."""
    return _experiment("mms_300m", "wav2vec2", **_LARGE, **_STABLE)


def hubert_base() -> Experiment:
    return _experiment("hubert_base", "hubert", **_BASE)


def hubert_large() -> Experiment:
    return _experiment("hubert_large", "hubert", **_LARGE, **_STABLE)


def wavlm_base() -> Experiment:
    return _experiment("wavlm_base", "wavlm", **_BASE)


def wavlm_large() -> Experiment:
    return _experiment("wavlm_large", "wavlm", **_LARGE, **_STABLE)


def data2vec_base() -> Experiment:
    return _experiment("data2vec_base", "data2vec-audio", **_BASE)


def data2vec_large() -> Experiment:
    return _experiment("data2vec_large", "data2vec-audio", **_LARGE)


def w2v_bert() -> Experiment:
    return _experiment("w2v_bert", "wav2vec2-bert", **_LARGE)


def whisper_small() -> Experiment:
    """Its inputs are filled up to 30 s, and its frames are those of the utterance."""
    return _experiment(
        "whisper_small", "whisper", d_model=768, encoder_layers=12, encoder_attention_heads=12,
        encoder_ffn_dim=3072,
    )  # fmt: skip


def qwen2_audio() -> Experiment:
    """A frame is of 40 ms."""
    return _experiment("qwen2_audio", "qwen2_audio_encoder")


def ast() -> Experiment:
    """Patches of 160 ms every 100 ms, so the head makes eight steps of each; no model of speech."""
    return _experiment("ast", "audio-spectrogram-transformer", upsampling=8, **_BASE)


def folder_options(folder: Path) -> list[str]:
    """NAME=VALUE for each option of the features and the encoder that a folder decides. Raises MayaError for
    a folder that holds no such encoder."""
    features, encoder = hugging_face(folder)
    options = [f"model.encoder.folder={folder}", f"model.encoder.settings={encoder.settings}"]
    return options + [
        f"model.features.{name}={json.dumps(value)}" for name, value in leaves(features)
        if isinstance(value, bool | int | float)
    ]  # fmt: skip


if __name__ == "__main__":
    try:
        print("\n".join(folder_options(Path(sys.argv[1]).resolve())))
    except (MayaError, IndexError) as error:
        sys.exit(f"error: {error if isinstance(error, MayaError) else 'name the folder of a model'}")
