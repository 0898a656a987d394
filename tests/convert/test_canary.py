"""Canary archives made to NeMo's specification: logits, texts, languages, times, training, bad input."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.convert import to_nemo
from maya.convert.nemo.archive import NemoArchive
from maya.convert.nemo.load import import_nemo
from maya.data.loading.batch import make_batch
from maya.decode.attention.canary import CanaryConfig
from maya.decode.long.long_audio import LongAudioConfig, transcribe_long
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import TranscriptionConfig
from maya.errors import MayaError
from maya.heads import CanaryDecoder, LossStep
from maya.heads.canary import CanaryPrompt
from maya.recipes.train import train
from maya.recipes.transcribe_method import SearchOptions, make_decoder
from maya.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from tests import tiny
from tests.convert import canary_files as canary

KINDS: list[dict[str, Any]] = [
    {"form": "canary"},  # canary-1b
    {"dim": 48},  # canary-180m-flash: a projection between encoder and decoder
    {"unified": True},  # canary-1b-v2
    {"between": 2, "act": "gelu"},
    {"pre_ln": False, "learned": True, "between": 1},
]


def load(path: Path, **options: Any) -> tuple[Recognizer, CanaryDecoder, canary.PlainDecoder]:
    canary.archive(path, **options)
    model = maya.load(path)
    head = model.model.head("canary")
    assert isinstance(head, CanaryDecoder)
    with NemoArchive(path) as archive:
        stored = archive.weights()
    plain = {"pre_ln": options.get("pre_ln", True), "act": options.get("act", "relu")}
    return model, head, canary.PlainDecoder(stored, **plain)


def frames_of(model: Recognizer, samples: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    audio, lens = torch.randn(len(samples), max(samples)) * 0.1, torch.tensor(samples)
    frames, sizes = model.encode(audio, lens)
    return frames.clone(), sizes.clone()


@pytest.mark.parametrize("options", KINDS)
def test_logits_and_texts_are_those_of_nemos_formulas(options: dict[str, Any], tmp_path: Path) -> None:
    model, head, plain = load(tmp_path / "c.nemo", **options)
    torch.manual_seed(3)
    frames, lens = frames_of(model, [16000, 9000, 24000])
    prompts = head.prompt([0, 1, 0])
    tokens = torch.cat([torch.tensor(prompts), torch.randint(61, head.outputs, (3, 6))], 1)
    with torch.no_grad():
        memory = head.memory(frames, lens)
        right = plain.log_probs(frames, lens, tokens)
        assert (head.logits(tokens, memory).log_softmax(-1) - right).abs().max() < 2e-5
        state, steps = head.start(memory), []
        first, state = head.read(tokens[:, :3], state)
        for n in range(3, tokens.shape[1]):
            steps.append(first)
            first, state = head.step(tokens[:, n], state)
        assert (torch.stack(steps, 1) - right[:, 2:-1]).abs().max() < 2e-5
    hyps = model.make_method(model.choose_method())(
        maya.encoders.Encoded(frames, lens), torch.tensor([0, 1, 0])
    )
    for row, hyp in enumerate(hyps):
        alone = frames[row : row + 1, : lens[row]]
        limit = min(canary.POSITIONS - len(prompts[row]), int(lens[row]) + 50)
        assert hyp.tokens == plain.greedy(alone, prompts[row], head.eos, head.never, limit)
    assert any(hyp.tokens for hyp in hyps)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_row_alone_equals_the_row_in_a_batch(beam: int, tmp_path: Path) -> None:
    model, head, _ = load(tmp_path / "c.nemo", between=1)
    torch.manual_seed(4)
    frames, lens = frames_of(model, [8000, 30000, 16000])
    frames[0, lens[0] :] = torch.nan
    method = model.make_method(model.choose_method(), CanaryConfig(beam=beam, n_best=beam))
    batch = method(maya.encoders.Encoded(frames, lens), torch.tensor([0, 1, 1]))
    for row, lang in enumerate((0, 1, 1)):
        encoded = maya.encoders.Encoded(frames[row : row + 1, : lens[row]], lens[row : row + 1])
        (lone,) = method(encoded, torch.tensor([lang]))
        assert lone.tokens == batch[row].tokens
        assert torch.allclose(torch.tensor(lone.scores), torch.tensor(batch[row].scores), atol=1e-5)
        assert [h.tokens for h in lone.alternatives] == [h.tokens for h in batch[row].alternatives]
    if beam > 1:
        greedy = model.make_method(model.choose_method())(maya.encoders.Encoded(frames, lens))
        assert all((h.search_score or 0) >= sum(g.scores) - 50 for h, g in zip(batch, greedy, strict=True))


def test_prompts(tmp_path: Path) -> None:
    _, head, _ = load(tmp_path / "a.nemo", form="canary")
    pieces = maya.load(tmp_path / "a.nemo").tokenizer.pieces

    def prompt(lang: int, **asked: Any) -> str:
        return "".join(pieces(head.prompt([lang], CanaryPrompt(**asked))[0]))

    start = "<|startoftranscript|>"
    assert prompt(1) == start + "<|hi|><|transcribe|><|hi|><|pnc|>"
    assert prompt(1, target="en", punctuation=False) == start + "<|hi|><|translate|><|en|><|nopnc|>"
    with pytest.raises(MayaError, match="takes languages and punctuation alone"):
        head.prompt([0], CanaryPrompt(timestamps=True))
    with pytest.raises(MayaError, match=r"no token for the language 'de'; it has en, hi"):
        head.prompt([0], CanaryPrompt(target="de"))
    with pytest.raises(MayaError, match="needs the language of each utterance"):
        head.prompt([-1])
    model, head, _ = load(tmp_path / "b.nemo")
    own = model.tokenizer.encode("नमस्ते", "hi")
    row = head.prompt([1], CanaryPrompt(inverse_normalisation=True, timestamps=True, diarize=True), own)[0]
    assert row[1 : 1 + len(own)] == own and head.cfg.prompt.punctuation
    written = "".join(model.tokenizer.pieces([row[0], *row[1 + len(own) :]]))
    assert written == (
        "<|startofcontext|>" + start + "<|emo:undefined|><|hi|><|hi|><|pnc|><|itn|><|timestamp|><|diarize|>"
    )
    with_context = CanaryConfig(beam=1, context="नमस्ते")
    (hyp,) = model.make_method(model.choose_method(), with_context)(
        maya.encoders.Encoded(*frames_of(model, [16000])), torch.tensor([1])
    )
    assert hyp.tokens is not None


@pytest.mark.parametrize("form", ["canary", "canary2"])
def test_a_language_that_is_not_named_is_identified(form: str, tmp_path: Path) -> None:
    model, head, plain = load(tmp_path / "c.nemo", form=form)
    frames, lens = frames_of(model, [16000])
    ids = head.cfg.tokens
    tokens = [ids.start] if form == "canary" else [ids.begin, ids.start]
    if form == "canary2":
        scores = plain.log_probs(frames, lens, torch.tensor([tokens]))[0, -1]
        tokens.append(max(ids.emotions, key=lambda i: float(scores[i])))
    scores = plain.log_probs(frames, lens, torch.tensor([tokens]))[0, -1, list(ids.language_ids)].softmax(-1)
    hyp = model.transcribe([torch.randn(16000) * 0.1], language="auto")[0]
    (prediction,) = head.predict(maya.encoders.Encoded(frames, lens))
    assert prediction.label == ids.languages[int(scores.argmax())]
    assert prediction.probability == pytest.approx(float(scores.max()), abs=1e-5)
    assert hyp.language in ("en", "hi") and hyp.language_probability is not None
    assert model.transcribe([torch.randn(16000) * 0.1], language="hi")[0].language == "hi"


def test_tokens_of_timestamps_become_times_of_words(tmp_path: Path) -> None:
    model, head, _ = load(tmp_path / "c.nemo")
    ids = head.cfg.tokens
    words = ["the", "quick", "fox"]
    pieces = [model.tokenizer.encode(word, "en") for word in words]
    times = [(1, 4), (5, 9), (12, 13)]
    script = [
        token
        for own, (start, end) in zip(pieces, times, strict=True)
        for token in (ids.zero + start, *own, ids.zero + end)
    ]
    scripted(head, script, prompt=9)
    method = model.make_method(model.choose_method(), CanaryConfig(beam=1, timestamps=True))
    audio, seconds = torch.randn(32000) * 0.1, model.model.frame_seconds
    for long_audio in (None, LongAudioConfig(strategy="whole")):  # alone, and joined from pieces
        cfg = TranscriptionConfig(long_audio=long_audio)
        (transcript,) = model.transcribe_each([audio], "en", decoder=method, cfg=cfg)
        hyp = transcript.hypothesis
        assert hyp is not None and hyp.text == "the quick fox"
        for word, text, (start, end) in zip(hyp.words, words, times, strict=True):
            assert word.text == text
            assert (word.start, word.end) == (pytest.approx(start * seconds), pytest.approx(end * seconds))
    scripted(head, [ids.zero + 1, *pieces[0], *pieces[1]], prompt=9)  # the end is missing
    (transcript,) = model.transcribe_each(
        [audio], "en", decoder=method, cfg=TranscriptionConfig(long_audio=None)
    )
    assert transcript.hypothesis is not None and transcript.hypothesis.text == "the quick"
    assert transcript.hypothesis.words[0].start is None


def scripted(head: CanaryDecoder, script: list[int], prompt: int) -> None:
    """Let the decoder write these tokens, whatever it reads, and then the end."""
    whole = [*script, head.eos]

    def scores(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*x.shape[:-1], head.outputs)
        logits[..., whole[min(head.place, len(whole) - 1)]] = 50.0
        return logits

    def read(tokens: torch.Tensor, state: Any) -> Any:
        first = state.past[0][0].shape[2]
        head.place = first + tokens.shape[1] - prompt
        return CanaryDecoder.read(head, tokens, state)

    head.scores, head.read = scores, read  # type: ignore[method-assign]


def test_long_recordings_are_decoded_in_pieces(tmp_path: Path) -> None:
    model, _, _ = load(tmp_path / "c.nemo", unified=True)
    torch.manual_seed(0)
    audio = torch.randn(16000 * 5) * 0.1
    cfg = LongAudioConfig(strategy="overlap", window_seconds=2.0, overlap_seconds=0.5)
    hyp = transcribe_long(model, "auto", [audio], "en", cfg)
    assert hyp.text and hyp.language == "en"
    with pytest.raises(MayaError, match="cannot decode a stream: Canary reads whole utterances"):
        model.stream("en")


def test_the_loss_is_that_of_the_text_after_the_prompt(tmp_path: Path) -> None:
    model, head, plain = load(tmp_path / "c.nemo")
    texts, langs = [[70, 71, 72], [80]], [0, 1]
    batch = make_batch([torch.randn(16000)] * 2, texts, langs, ["a", "b"], sample_rate=16000)
    encoded = model.model.encode_audio(batch.audio, batch.audio_lens)
    losses = head.losses(encoded, batch, LossStep())["loss"]
    for row, (text, lang) in enumerate(zip(texts, langs, strict=True)):
        prompt = head.prompt([lang])[0]
        scores = plain.log_probs(
            encoded.frames[row : row + 1], encoded.lens[row : row + 1], torch.tensor([prompt + text])
        )[0]
        right = -sum(scores[len(prompt) - 1 + n, t] for n, t in enumerate([*text, head.eos]))
        assert float((losses[row] - right).detach().abs()) < 1e-3
    long = make_batch([torch.randn(16000)], [[70] * 60], [0], ["a"], sample_rate=16000)
    with pytest.raises(MayaError, match="60 tokens does not fit into the 64 positions"):
        head.losses(encoded, long, LossStep())


def test_the_trainer_tunes_it(tmp_path: Path) -> None:
    start = import_nemo(canary.archive(tmp_path / "c.nemo")).checkpoint
    save_checkpoint(tmp_path / "start.pt", start)
    start.tokenizer.save(tmp_path / "tokenizer")
    exp = tiny.experiment()
    exp.model = start.model_config
    exp.tokenizer.file = str(tmp_path / "tokenizer")
    exp.train.init_from = str(tmp_path / "start.pt")
    exp.train.init_modules = ("encoder", "heads.canary")
    exp.train.steps = exp.train.save_every = exp.train.valid_every = 2
    exp.train.warmup_steps = 1
    exp.data.max_seconds = 2.0
    tiny.prepare_run(exp, tmp_path, utterances=6)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    made = load_checkpoint(tmp_path / "run")
    moved = {n for n, t in start.weights.items() if not torch.equal(t, made.weights[n])}
    assert "heads.canary.token_embedding.weight" in moved and "heads.canary.positions" not in moved
    assert maya.load(tmp_path / "run").tokenizer.vocab_size == start.tokenizer.vocab_size


BAD: list[tuple[Any, str]] = [
    (lambda c, w: c.update(prompt_format="canary3"), "prompt_format is 'canary3'"),
    (lambda c, w: c["transf_decoder"]["config_dict"].update(hidden_act="silu"), "hidden_act is 'silu'"),
    (lambda c, w: c["transf_decoder"]["config_dict"].update(rope=True), "config_dict.rope = true is unknown"),
    (lambda c, w: c["transf_decoder"].update(_target_="x.Bert"), "transf_decoder is a Bert"),
    (lambda c, w: c["head"].update(num_layers=2), "head.num_layers is 2"),
    (lambda c, w: c["head"].update(_target_="x.Bert"), "head is a Bert"),
    (lambda c, w: c["loss"].update(predict_last_k=1), "loss.predict_last_k is 1"),
    (lambda c, w: c["transf_encoder"].update(num_layers=1, mask_future=True), "mask_future is true"),
    (lambda c, w: w.pop("log_softmax.mlp.layer0.bias"), "lacks tensors of the network of its yaml: log_so"),
    (lambda c, w: w.pop("transf_decoder._decoder.layers.1.second_sub_layer.key_net.bias"),
     r"lacks tensors .*layers\.1\.second_sub_layer\.key_net\.bias"),
    (lambda c, w: w.update({"transf_decoder.extra": torch.zeros(1)}), "does not have: transf_decoder.extra"),
    (lambda c, w: w.update({"log_softmax.mlp.layer0.weight": torch.zeros(8, 32)}), "differs from the token"),
    (lambda c, w: c["tokenizer"]["langs"].pop("spl_tokens"), "has no 'spl_tokens'"),
    (lambda c, w: c.update(prompt_format="canary2"), r"has no <\|itn\|>"),
    (lambda c, w: c["transf_decoder"]["config_dict"].update(num_layers=3), "lacks tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_bad_archives_are_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    canary.archive(tmp_path / "c.nemo", form="canary", change=change)
    with pytest.raises(MayaError, match=sentence) as error:
        maya.load(tmp_path / "c.nemo")
    assert re.search(r"c\.nemo", str(error.value))


def test_the_language_is_not_named_when_it_is_read(tmp_path: Path) -> None:
    canary.archive(tmp_path / "c.nemo")
    with pytest.raises(MayaError, match="takes the language when it transcribes"):
        import_nemo(tmp_path / "c.nemo", language="hi")
    made = import_nemo(tmp_path / "c.nemo", encoder_only=True)
    assert [*made.checkpoint.model_config.heads] == ["ctc"]


@pytest.mark.parametrize("options", KINDS)
def test_a_canary_is_written_back(options: dict[str, Any], tmp_path: Path) -> None:
    canary.archive(tmp_path / "a.nemo", **options)
    first = maya.load(tmp_path / "a.nemo")
    to_nemo(first, tmp_path / "b.nemo")
    second = maya.load(tmp_path / "b.nemo")
    assert second.model.cfg == first.model.cfg
    assert second.tokenizer.model_bytes == first.tokenizer.model_bytes
    state = second.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.model.state_dict().items())
    with NemoArchive(tmp_path / "a.nemo") as a, NemoArchive(tmp_path / "b.nemo") as b:
        stored, again = a.weights(), b.weights()
        assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in stored.items()}
    with pytest.raises(MayaError, match="prompt names the language"):
        to_nemo(first, tmp_path / "c.nemo", language="hi")


def test_transcribe_takes_options_of_the_method(tmp_path: Path) -> None:
    canary.archive(tmp_path / "c.nemo")
    model = maya.load(tmp_path / "c.nemo")
    method: Any = make_decoder(model, SearchOptions(beam=2, options=("target=hi", "timestamps=true")))
    assert method.cfg.kind == "canary" and method.cfg.beam == 2 and method.sets_spans
    assert method.asked == CanaryPrompt(target="hi", timestamps=True)
    assert model.model.cfg.heads["canary"].describe().endswith("prompts canary2, languages en hi")
    canary.archive(tmp_path / "first.nemo", form="canary")
    with pytest.raises(MayaError, match="has no tokens of timestamps"):
        make_decoder(maya.load(tmp_path / "first.nemo"), SearchOptions(options=("timestamps=true",)))
    with pytest.raises(MayaError, match="targets"):
        make_decoder(model, SearchOptions(options=("targets=hi",)))
    with pytest.raises(MayaError, match="timestamps expects"):
        make_decoder(model, SearchOptions(options=("timestamps=often",)))
