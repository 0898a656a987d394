"""Archives in the layout of AI4Bharat's IndicConformer, of a tiny size, and what its specification computes.

Written from the tensor names and yaml keys of the published archives, without Maya's own export.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from maya.data.loading.batch import Batch, make_batch
from maya.decode.recognizer import Recognizer
from maya.encoders import FastConformerConfig
from maya.features.logmel import LogMel, LogMelConfig
from maya.heads import HeadConfig, MultisoftmaxCTCConfig, MultisoftmaxTransducerConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.text.aggregate import AggregateTokenizer
from maya.text.tokenizer import Tokenizer, TokenizerConfig

CODES = ("or", "as", "hi")  # the order of the yaml, which is no order of sorting
TEXTS = {
    "or": ["ନମସ୍କାର ଦୁନିଆ କେମିତି"] * 9, "as": ["নমস্কাৰ পৃথিৱী কেনে আছা"] * 9, "hi": ["नमस्ते दुनिया कैसे हो"] * 9,
}  # fmt: skip
PIECES, WIDTH, LAYERS, HIDDEN, JOINT = 24, 32, 2, 20, 28
MODULES = "nemo.collections.asr.modules."


def tokenizers() -> dict[str, Tokenizer]:
    cfg = TokenizerConfig(vocab_size=PIECES)
    return {code: Tokenizer.train({code: TEXTS[code]}, cfg) for code in CODES}


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors by the names of the published archives."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}

    def add(name: str, *shape: int, scale: float = 0.15) -> None:
        made[name] = torch.randn(shape, generator=generator) * scale

    def linear(name: str, out: int, into: int, *kernel: int) -> None:
        add(name + ".weight", out, into, *kernel)
        add(name + ".bias", out)

    features = LogMel(LogMelConfig(legacy=True, dither=0.0)).state_dict()
    made |= {f"preprocessor.featurizer.{name}": value for name, value in features.items()}
    linear("encoder.pre_encode.conv.0", WIDTH, 1, 3, 3)
    linear("encoder.pre_encode.conv.2", WIDTH, WIDTH, 3, 3)
    linear("encoder.pre_encode.out", WIDTH, WIDTH * 20)
    for n in range(LAYERS):
        layer = f"encoder.layers.{n}."
        for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            made[f"{layer}norm_{norm}.weight"] = torch.ones(WIDTH)
            made[f"{layer}norm_{norm}.bias"] = torch.zeros(WIDTH)
        for half in (1, 2):
            linear(f"{layer}feed_forward{half}.linear1", 4 * WIDTH, WIDTH)
            linear(f"{layer}feed_forward{half}.linear2", WIDTH, 4 * WIDTH)
        for part in ("q", "k", "v", "out"):
            linear(f"{layer}self_attn.linear_{part}", WIDTH, WIDTH)
        add(f"{layer}self_attn.linear_pos.weight", WIDTH, WIDTH)
        add(f"{layer}self_attn.pos_bias_u", 2, WIDTH // 2)
        add(f"{layer}self_attn.pos_bias_v", 2, WIDTH // 2)
        linear(f"{layer}conv.pointwise_conv1", 2 * WIDTH, WIDTH, 1)
        linear(f"{layer}conv.depthwise_conv", WIDTH, 1, 31)
        linear(f"{layer}conv.pointwise_conv2", WIDTH, WIDTH, 1)
        norm = f"{layer}conv.batch_norm."
        made |= {norm + "weight": torch.ones(WIDTH), norm + "bias": torch.zeros(WIDTH)}
        made |= {norm + "running_mean": torch.zeros(WIDTH), norm + "running_var": torch.ones(WIDTH)}
        made[norm + "num_batches_tracked"] = torch.tensor(1)
    total = PIECES * len(CODES)
    add("decoder.prediction.embed.weight", total + 1, HIDDEN, scale=1.0)
    made["decoder.prediction.embed.weight"][-1] = 0
    for name in ("weight_ih_l0", "weight_hh_l0"):
        add(f"decoder.prediction.dec_rnn.lstm.{name}", 4 * HIDDEN, HIDDEN, scale=0.5)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        add(f"decoder.prediction.dec_rnn.lstm.{name}", 4 * HIDDEN)
    linear("joint.enc", JOINT, WIDTH)
    linear("joint.pred", JOINT, HIDDEN)
    for code in CODES:
        add(f"joint.joint_net.2.{code}.weight", PIECES + 1, JOINT, scale=0.5)
        add(f"joint.joint_net.2.{code}.bias", PIECES + 1)
        made[f"joint.joint_net.2.{code}.bias"][-1] += 1.5  # some frames are blank
    add("ctc_decoder.decoder_layers.0.weight", total + 1, WIDTH, 1, scale=0.5)
    add("ctc_decoder.decoder_layers.0.bias", total + 1)
    return made


def config() -> dict[str, Any]:
    """The yaml, without the tokenizers' files."""
    head = {"_target_": MODULES + "ConvASRDecoder", "feat_in": None, "num_classes": -1, "vocabulary": []}
    head |= {"multisoftmax": True, "language_masks": None}
    return {
        "sample_rate": 16000, "target": "nemo.collections.asr.models.EncDecHybridRNNTCTCBPEModel",
        "nemo_version": "1.23.0rc0", "train_ds": {"return_language_id": True, "concat_sampling": False},
        "preprocessor": {
            "_target_": MODULES + "AudioToMelSpectrogramPreprocessor", "sample_rate": 16000, "features": 80,
            "normalize": "per_feature", "window_size": 0.025, "window_stride": 0.01, "window": "hann",
            "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 1e-5, "pad_to": 0, "pad_value": 0.0,
        },
        "encoder": {
            "_target_": MODULES + "ConformerEncoder", "feat_in": 80, "feat_out": -1, "n_layers": LAYERS,
            "d_model": WIDTH, "subsampling": "striding", "subsampling_factor": 4, "n_heads": 2,
            "subsampling_conv_channels": -1, "ff_expansion_factor": 4, "self_attention_model": "rel_pos",
            "att_context_size": [-1, -1], "xscaling": True, "untie_biases": True, "pos_emb_max_len": 5000,
            "conv_kernel_size": 31, "conv_norm_type": "batch_norm", "dropout": 0.1, "dropout_emb": 0.0,
            "dropout_pre_encoder": 0.1, "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": MODULES + "RNNTDecoder", "normalization_mode": None, "random_state_sampling": False,
            "blank_as_pad": True, "multisoftmax": True, "language_masks": None, "vocab_size": -1,
            "prednet": {"pred_hidden": HIDDEN, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": MODULES + "RNNTJoint", "log_softmax": None, "preserve_memory": False,
            "fuse_loss_wer": True, "fused_batch_size": 4, "multilingual": True, "language_keys": [*CODES],
            "jointnet": {
                "joint_hidden": JOINT, "activation": "relu", "dropout": 0.2, "encoder_hidden": WIDTH,
                "pred_hidden": HIDDEN,
            },
        },
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0}},
        "aux_ctc": {"ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch", "decoder": head},
    }  # fmt: skip


def archive(
    path: Path, *, change: Callable[[dict[str, Any]], object] = lambda c: None,
    state: dict[str, Tensor] | None = None, parts: dict[str, Tokenizer] | None = None,
) -> Path:  # fmt: skip
    """Write an archive. change: of the yaml. state, parts: other weights and tokenizers."""
    values, files, langs = config(), {}, {}
    for code, part in (parts or tokenizers()).items():
        name = hashlib.md5(part.model_bytes, usedforsecurity=False).hexdigest() + "_tokenizer.model"
        files[name] = part.model_bytes
        langs[code] = {"dir": f"/nowhere/{code}", "type": "bpe", "model_path": f"nemo:{name}"}
    values["tokenizer"] = {"type": "multilingual", "langs": langs}
    change(values)
    saved = io.BytesIO()
    torch.save(weights() if state is None else state, saved)
    files |= {"model_config.yaml": yaml.safe_dump(values, sort_keys=False).encode()}
    with tarfile.open(path, "w") as tar:
        for name, content in (files | {"model_weights.ckpt": saved.getvalue()}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def masked_ctc(state: dict[str, Tensor], enc: Tensor, code: str) -> Tensor:
    """enc (S, D) → log probabilities (S, PIECES + 1): all rows masked by the language, then a softmax."""
    table, bias = (state[f"ctc_decoder.decoder_layers.0.{name}"] for name in ("weight", "bias"))
    mask = torch.zeros(len(table), dtype=torch.bool)
    first = CODES.index(code) * PIECES
    mask[first : first + PIECES] = mask[-1] = True
    return (enc @ table[:, :, 0].T + bias)[:, mask].log_softmax(-1)


def greedy_ctc(state: dict[str, Tensor], enc: Tensor, code: str) -> list[int]:
    """The pieces of a language, from 0, on the best path."""
    path = masked_ctc(state, enc, code).argmax(-1).tolist()
    return [a for a, before in zip(path, [PIECES, *path], strict=False) if a not in (before, PIECES)]


def greedy_rnnt(state: dict[str, Tensor], enc: Tensor, code: str, most: int = 10) -> list[int]:
    """The pieces of a language, from 0; the first step reads zeros."""
    lstm = [
        state[f"decoder.prediction.dec_rnn.lstm.{n}"]
        for n in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    f = enc @ state["joint.enc.weight"].T + state["joint.enc.bias"]
    zeros = torch.zeros(1, HIDDEN)
    h, c = torch.lstm_cell(zeros, (zeros, zeros), *lstm)
    labels: list[int] = []
    for frame in f:
        for _ in range(most):
            hidden = torch.relu(frame + h[0] @ state["joint.pred.weight"].T + state["joint.pred.bias"])
            scores = hidden @ state[f"joint.joint_net.2.{code}.weight"].T
            best = int((scores + state[f"joint.joint_net.2.{code}.bias"]).argmax())
            if best == PIECES:
                break
            labels.append(best)
            embedded = state["decoder.prediction.embed.weight"][best][None]
            h, c = torch.lstm_cell(embedded, (h, c), *lstm)
    return labels


def full_size() -> FastConformerConfig:
    """The encoder of the published archives."""
    return FastConformerConfig(
        n_layers=17, d_model=512, n_heads=8, conv_kernel=31, subsampling_factor=4, subsampling="striding",
        subsampling_channels=512,
    )  # fmt: skip


def streaming(loss: Any = "rnnt", consistency: float = 0.0) -> Recognizer:
    """A tiny causal model with the same heads, newly initialised."""
    torch.manual_seed(0)
    encoder = FastConformerConfig(
        d_model=32, n_layers=1, n_heads=2, subsampling_factor=4, subsampling="striding",
        subsampling_channels=8, causal_downsampling=True, conv_context="causal", conv_norm="layer_norm",
        att_context_size=((8, 0),),
    )  # fmt: skip
    heads: dict[str, HeadConfig] = {
        "transducer": MultisoftmaxTransducerConfig(
            loss=loss,
            omega=0.0,
            predictor=PredictorConfig(hidden=16, layers=1),
            joint=JointConfig(hidden=24, dropout=0.0),
        ),  # fmt: skip
        "ctc": MultisoftmaxCTCConfig(consistency_weight=consistency, consistency_warmup=0),
    }
    cfg = SpeechModelConfig(
        features=LogMelConfig(dither=0.0, normalize="none"), encoder=encoder, heads=heads,
        vocab_size=3 * PIECES, languages=CODES,
    )  # fmt: skip
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for p in model.heads.parameters():
            p.mul_(4)
    return Recognizer(model=model, tokenizer=AggregateTokenizer(tokenizers()), device=torch.device("cpu"))


def batch_of(whole: Recognizer, audio: list[Tensor], spoken: list[str]) -> Batch:
    tokens = [whole.tokenizer.encode(TEXTS[code][0][:9], code) for code in spoken]
    langs = [CODES.index(code) for code in spoken]
    return make_batch(audio, tokens, langs, [*"abcdef"][: len(audio)], sample_rate=16000)
