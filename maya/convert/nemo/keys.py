"""The keys of NeMo's yaml that change no network, and those that stand for a network that Maya lacks.

Collected from the constructors and the example configurations of NeMo's main branch (2025-09) and of 3.0.0.
"""

from collections.abc import Mapping
from typing import Any

# Top-level keys about training, evaluation and decoding, which do not change the network.
HARMLESS = (
    *("sample_rate", "labels", "model_defaults", "decoding", "optim", "train_ds", "validation_ds", "test_ds"),
    *("compute_eval_loss", "log_prediction", "use_cer", "rnnt_reduction", "ctc_reduction", "skip_nan_grad"),
    *("variational_noise", "normalize_gradient", "exp_manager", "trainer", "name", "nemo_version"),
    *("target", "nemo_path", "ema", "init_from_nemo_model", "init_from_pretrained_model"),
    *("init_from_ptl_ckpt", "calculate_eou_metrics", "save_pred_to_file", "bleu_tokenizer"),
    *("compute_timestamps", "token_init_method", "token_init_weight_value", "token_init_bias_value"),
    *("normalize_joint_txu", "normalize_encoder_norm", "normalize_decoder_norm", "normalize_joint_norm"),
    # Values that the examples name at the top and refer to, and data sets of Hugging Face.
    *("repeat", "separable", "dropout", "kernel_size_factor", "timesteps", "labels_full", "labels_subset"),
    *("normalize_text", "symbols_to_keep", "data_path", "data_name", "streaming", "sample_rate_key"),
    *("audio_key", "text_key", "char_labels", "optimizer", "log_predictions", "init_strategy", "loss_name"),
    *("alignment_type", "word_output", "cpu_decoding", "decode_batch_size"),
)
_SPEAKERS, _PROMPT, _SORTFORMER = "kernels for speakers", "a prompt kernel", "the heads of Sortformer"
_SELF, _CLASSES, _SPEECH = "the heads of self-supervised training", "a classifier", "a synthesiser of speech"
_CANARY, _SLOTS = "a Transformer decoder", "the decoder of spoken language understanding"
# Keys of networks that Maya does not have, and what they stand for.
OTHER_NETWORKS = {
    "spk_kernel_type": _SPEAKERS, "spk_kernel_layers": _SPEAKERS, "add_bg_spk_kernel": _SPEAKERS,
    "num_prompts": _PROMPT, "initialize_prompt_feature": _PROMPT, "prompt_dictionary": _PROMPT,
    "transf_encoder": "a Transformer encoder", "transf_decoder": _CANARY, "head": _CANARY,
    "prompt_format": "a decoder with prompts", "prompt_defaults": "a decoder with prompts",
    "use_loss_mask_for_prompt": "a decoder with prompts", "label_smoothing": _CANARY,
    "beam_search": _CANARY, "multitask_metrics_cfg": _CANARY, "spl_tokens": _CANARY,
    "restore_timestamps_model": "a model of timestamps", "timestamps_asr_model": "a model of timestamps",
    "sortformer_modules": _SORTFORMER, "transformer_encoder": "a Transformer encoder",
    "pil_weight": _SORTFORMER, "ats_weight": _SORTFORMER, "max_num_of_spks": _SORTFORMER,
    "streaming_mode": _SORTFORMER, "async_streaming": _SORTFORMER, "high_resolution": _SORTFORMER,
    "negative_init_val": _SORTFORMER, "max_batch_dur": _SORTFORMER, "augmentor": _SORTFORMER,
    "diarizer": "a diarizer", "quantizer": _SELF, "masking": _SELF, "mask_position": _SELF,
    "loss_list": _SELF,
    "num_books": _SELF, "code_dim": _SELF, "squeeze_single": _SELF, "decoder_out": _SELF,
    "embedding_dim": _SELF, "final_dim": _SELF, "dropout_features": _SELF, "dropout_features_q": _SELF,
    "feature_penalty": _SELF, "num_classes": _CLASSES, "is_regression_task": _CLASSES,
    "crop_or_pad_augment": _CLASSES, "ratio_threshold": _CLASSES, "classifier": _SLOTS, "embedding": _SLOTS,
    "sequence_generator": _SLOTS, "asr_model": _SPEECH, "asr_model_type": _SPEECH,
    "asr_model_fuse_bn": _SPEECH, "asr_model_path": _SPEECH, "tts_model": _SPEECH,
    "tts_model_path": _SPEECH, "enhancer_model": _SPEECH, "enhancer_model_path": _SPEECH,
    "decoder_module_cfg": "a lattice decoder of k2",
}  # fmt: skip
OF_PROMPTS = _PROMPT
# Settings of the features for which Maya supports only NeMo's defaults.
FIXED_FEATURES: dict[str, tuple[Any, ...]] = {
    "n_window_stride": (None,), "window": ("hann",), "lowfreq": (0, 0.0), "log": (True,),
    "log_zero_guard_type": ("add",), "log_zero_guard_value": (2.0**-24,), "frame_splicing": (1,),
    "exact_pad": (False,), "stft_exact_pad": (False,), "use_torchaudio": (False,), "pad_value": (0, 0.0),
    "mag_power": (2.0, 2), "mel_norm": ("slaney",),
}  # fmt: skip
# Of the encoder, decoder and joint: arguments of other classes, and what these are.
_PLAIN = "of NeMo's plain Transformer encoder"
OTHER_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "encoder": {
        **dict.fromkeys(("drop_rate", "qkv_bias", "qk_norm", "ff_expansion", "pre_block_norm"), _PLAIN),
        **dict.fromkeys(("attn_mode",), _PLAIN),
        **dict.fromkeys(("adaptive_scale", "time_reduce_idx", "time_recovery_idx"), "of Squeezeformer"),
        **dict.fromkeys(("jasper", "activation", "conv_mask", "init_mode"), "of Jasper and QuartzNet"),
        **dict.fromkeys(("rnn_type", "bidirectional", "proj_size"), "of a recurrent encoder"),
        **dict.fromkeys(("filters", "kernel_sizes", "dilations", "scale"), "of ECAPA"),
        **dict.fromkeys(("transformer", "pos_embed", "layer_drop"), "of wav2vec"),
    },
    "decoder": {
        "context_size": "of a stateless predictor",
        "num_layers": "of a head of another kind", "hidden_size": "of a head of another kind",
    },
    "transf_decoder": dict.fromkeys(
        ("library", "hidden_size", "inner_size", "num_layers", "num_attention_heads", "hidden_act", "pre_ln"),
        "of a Transformer without a config_dict",
    ),
    "config_dict": dict.fromkeys(
        ("arch", "hidden_steps", "hidden_blocks", "hidden_init_method", "return_mask"),
        "of a bottleneck encoder",
    ),
    "joint": {"big_blank_durations": "of several blanks", "dropout": "of a joint of another kind"},
}  # fmt: skip
