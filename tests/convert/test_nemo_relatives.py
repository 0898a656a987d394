"""Archives whose yaml has keys of newer models, and encoders of classes that Maya does not have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.convert import import_nemo, to_nemo
from maya.errors import MayaError
from maya.features import LogMelConfig
from tests.convert.archives import KINDS, archive, changed, tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("relatives") / "a.nemo")


UNIFIED = {
    "att_context_size": [-1, -1],
    "att_chunk_context_size": [[70], [1, 2, 7, 13], [0, 1, 2, 3]],
    "att_context_style": "chunked_limited_with_rc",
    "conv_context_style": "dcc",
}


def test_parakeet_unified_is_one_model_for_whole_utterances_and_chunks(source: Path, tmp_path: Path) -> None:
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c["encoder"].update(UNIFIED))
    made, plain = import_nemo(path), import_nemo(source)
    encoder: Any = made.checkpoint.model_config.encoder
    assert encoder.att_chunk_context_size == ((70,), (1, 2, 7, 13), (0, 1, 2, 3))
    encoder.att_chunk_context_size = ()
    assert made.checkpoint.model_config == plain.checkpoint.model_config
    assert any("att_chunk_context_size" in warning for warning in made.report.warnings)
    to_nemo(import_nemo(path).recognizer("cpu"), tmp_path / "again.nemo")
    again: Any = import_nemo(tmp_path / "again.nemo").checkpoint.model_config.encoder
    assert again.att_chunk_context_size == ((70,), (1, 2, 7, 13), (0, 1, 2, 3))
    for sizes in ([[70], [7]], [[70], [], [7]], 7):
        wrong = UNIFIED | {"att_chunk_context_size": sizes}
        path = changed(source, tmp_path / "d.nemo", config=lambda c, wrong=wrong: c["encoder"].update(wrong))
        with pytest.raises(MayaError, match="not lists of frames before, in and after a chunk"):
            import_nemo(path)
    bounded = UNIFIED | {"att_context_size": [70, 7]}
    path = changed(source, tmp_path / "c.nemo", config=lambda c: c["encoder"].update(bounded))
    with pytest.raises(MayaError, match="whole utterances"):
        import_nemo(path)


def test_start_values_of_end_of_turn_tokens_are_passed_over(source: Path, tmp_path: Path) -> None:
    keys = {"token_init_method": "constant", "token_init_weight_value": None, "token_init_bias_value": -1000}
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c.update(keys))
    assert import_nemo(path).report.warnings == import_nemo(source).report.warnings


def test_the_class_with_place_for_adapters_is_taken_without_any(source: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["encoder"]["_target_"] = "nemo.collections.asr.modules.ConformerEncoderAdapter"

    def add(weights: dict[str, Tensor]) -> None:
        weights["encoder.layers.0.adapter_layer.one.module.0.weight"] = torch.ones(3)

    assert import_nemo(changed(source, tmp_path / "b.nemo", config=change))
    with pytest.raises(MayaError, match="adapter_layer.one"):
        import_nemo(changed(source, tmp_path / "c.nemo", config=change, weights=add))


def test_an_unknown_single_value_at_the_top_is_a_warning(source: Path, tmp_path: Path) -> None:
    path = changed(source, tmp_path / "b.nemo", config=lambda c: c.update(new_metric=True))
    assert "new_metric = true is unknown to Maya and was passed over" in import_nemo(path).report.warnings
    ignored = import_nemo(path, ignore=["new_metric"]).report.warnings
    assert not any("new_metric" in warning for warning in ignored)


@pytest.mark.parametrize(
    ("target", "others"),
    [
        ("EncDecMultiTaskModel", {"transf_decoder": {"a": 1}, "prompt_format": "canary2"}),
        ("SortformerEncLabelModel", {"sortformer_modules": {"fc_d_model": 512}, "max_num_of_spks": 4}),
        ("EncDecDenoiseMaskedTokenPredModel", {"quantizer": {"num_books": 1}, "decoder_out": -1}),
    ],
)
def test_encoders_of_other_classes(source: Path, tmp_path: Path, target: str, others: dict[str, Any]) -> None:
    """Canary, Sortformer and NEST: the encoder as it is, a new CTC head for the tokenizer that is given."""

    def change(config: dict[str, Any]) -> None:
        for name in ("decoder", "joint", "loss", "aux_ctc"):
            config.pop(name, None)
        config["tokenizer"] = {"type": "agg", "custom_tokenizer": {"_target_": "x.Canary"}}
        config.update(target=f"nemo.x.{target}", **others)

    def move(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {n: x for n, x in weights.items() if n.startswith(("encoder.", "preprocessor."))}
        return kept | {"transf_decoder.layers.0.weight": torch.ones(2), "log_softmax.bias": torch.ones(2)}

    path = changed(source, tmp_path / "b.nemo", config=change, weights=move)
    refusal = "transf_decoder" if target == "EncDecMultiTaskModel" else f"{target}.*--encoder-only"
    with pytest.raises(MayaError, match=refusal):
        import_nemo(path)
    with pytest.raises(MayaError, match="--tokenizer"):
        import_nemo(path, encoder_only=True)
    made, plain = import_nemo(path, encoder_only=True, tokenizer=tokenizer()), import_nemo(source)
    assert made.report.new == ("ctc",) and "left behind: log_softmax, transf_decoder" in made.report.warnings
    for name, tensor in plain.checkpoint.weights.items():
        if name.startswith("encoder."):
            assert torch.equal(made.checkpoint.weights[name], tensor), name
    features = made.checkpoint.model_config.features
    assert isinstance(features, LogMelConfig) and made.recognizer("cpu").model.encoder is not None


PROMPTS = {"en-US": 0, "hi-IN": 2, "auto": 3}
COUNT, WIDTH, HIDDEN = 5, 32, 64


def prompted(source: Path, path: Path, *, columns: int = COUNT) -> tuple[Path, dict[str, Tensor]]:
    """An archive of a model with prompts, and its kernel."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"0.weight": (HIDDEN, WIDTH + columns), "0.bias": (HIDDEN,), "2.weight": (WIDTH, HIDDEN)}
    shapes["2.bias"] = (WIDTH,)
    kernel = {n: torch.randn(shape, generator=generator) * 0.3 for n, shape in shapes.items()}

    def change(config: dict[str, Any]) -> None:
        config["target"] += "WithPrompt"
        config["num_prompts"], config["subsampling_factor"] = COUNT, 4
        config["model_defaults"] |= {"num_prompts": COUNT, "prompt_dictionary": PROMPTS}

    def add(weights: dict[str, Tensor]) -> None:
        weights |= {f"prompt_kernel.{name}": value for name, value in kernel.items()}

    return changed(source, path, config=change, weights=add), kernel


@pytest.mark.parametrize(("language", "number"), [("hi", 2), ("auto", 3), ("en-us", 0)])
def test_a_fixed_prompt_equals_the_kernel(source: Path, tmp_path: Path, language: str, number: int) -> None:
    path, kernel = prompted(source, tmp_path / "b.nemo")
    made, plain = (
        import_nemo(path, language=language).recognizer("cpu"),
        import_nemo(source).recognizer("cpu"),
    )
    audio = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    lens = torch.tensor([16000, 9000])
    enc, enc_lens = plain.encode(audio, lens)
    prompt = torch.zeros(*enc.shape[:2], COUNT)
    prompt[..., number] = 1
    hidden = torch.cat([enc, prompt], -1) @ kernel["0.weight"].T + kernel["0.bias"]
    expected = hidden.relu() @ kernel["2.weight"].T + kernel["2.bias"]
    ours, our_lens = made.encode(audio, lens)
    assert torch.equal(our_lens, enc_lens)
    for row, size in enumerate(enc_lens.tolist()):
        torch.testing.assert_close(ours[row, :size], expected[row, :size], rtol=0, atol=1e-5)
        assert not ours[row, size:].any()
    with pytest.raises(MayaError, match="no place for the layer"):
        to_nemo(made, tmp_path / "c.nemo")


def test_prompt_models_stream(tmp_path: Path) -> None:
    (fields,) = [kind for kind in KINDS if kind.get("encoder.causal_downsampling")]
    source = archive(tmp_path / "a.nemo", **fields)
    made = import_nemo(prompted(source, tmp_path / "b.nemo")[0], language="hi-IN").recognizer("cpu")
    audio = torch.randn(20000, generator=torch.Generator().manual_seed(0)) * 0.1
    stream = made.stream()
    for begin in range(0, 20000, 3000):
        stream.accept(audio[begin : begin + 3000])
    assert stream.finish().tokens == made.transcribe(audio)[0].tokens


def test_wrong_prompts_are_refused(source: Path, tmp_path: Path) -> None:
    path, _ = prompted(source, tmp_path / "b.nemo")
    for language, message in ((None, "has prompts: choose --language"), ("ta", "no prompt 'ta': choose")):
        with pytest.raises(MayaError, match=f"{message}.*en-US, hi-IN, auto"):
            import_nemo(path, language=language)
    path, _ = prompted(source, tmp_path / "c.nemo", columns=1)
    with pytest.raises(MayaError, match="has no column of prompt 2"):
        import_nemo(path, language="hi")
