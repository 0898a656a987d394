"""`maya finetune` and `maya label`: one command from a folder to a run, honest verdicts, and the loop over
labels."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

import maya
from maya.convert import to_nemo
from maya.data.corpus.folder import read_corpus
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.models.adapters import is_adapter
from maya.models.vocabulary import vocabulary_dims
from maya.recipes.cli import run as run_command
from maya.recipes.finetuning import settings, verdict
from maya.recipes.finetuning.command import Options, finetune
from maya.recipes.finetuning.label import label, read_rows, take, write_rows
from maya.recipes.finetuning.mix import mix, same_sound
from maya.recipes.recorded import experiment_of
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint
from tests import tiny, tones

GREEK = str.maketrans(tones.LETTERS, "αβγδεζηθ")
FAST = ("train.steps=4", "train.warmup_steps=2", "train.valid_every=4", "train.average_every=1")


def greek_corpus(folder: Path, utterances: int = 24) -> Path:
    """The same tones, written in other letters, of a language that the base does not know."""
    tones.make_corpus(folder, utterances=utterances, languages=("el",), seed=5)
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines = [json.dumps(row | {"text": row["text"].translate(GREEK)}, ensure_ascii=False) for row in rows]
    manifest.write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run in two languages, its data, and a corpus in a third."""
    torch.manual_seed(0)
    top = tmp_path_factory.mktemp("base")
    exp = tiny.experiment()
    tiny.prepare_run(exp, top)
    train(exp, top / "data", top / "run", cpu=True)
    greek_corpus(top / "greek")
    return top


def options(base: Path, out: Path, **changes: Any) -> Options:
    values: dict[str, Any] = {
        "base": base / "run", "data": base / "greek", "run_dir": out, "cpu": True, "overrides": FAST,
    }  # fmt: skip
    return Options(**(values | changes))


def old_rows_are_kept(base: Path, run: Path) -> None:
    """The rows of old pieces are bit for bit those of the base, after training."""
    was = load_checkpoint(base / "run" / "best.pt")
    model = maya.load(run).model
    now, size = model.state_dict(), was.tokenizer.vocab_size
    for key, dim in vocabulary_dims(was.model_config).items():
        assert torch.equal(was.weights[key].movedim(dim, 0)[:size], now[key].movedim(dim, 0)[:size]), key


def test_one_command_adds_a_language(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fixed = load_checkpoint(base / "run" / "best.pt").tokenizer.vocab_size
    first = options(base, tmp_path / "run", overrides=(*FAST, f"train.fixed_pieces={fixed}"))
    measured = finetune(first)
    out = capsys.readouterr().out
    run = tmp_path / "run"
    assert "(new: el)" in out and "vocabulary: extend" in out and "--set train.steps=" in out
    assert [m.name for m in measured] == ["WER", "CER"] and measured[0].verdict in out
    result = json.loads((run / "finetune.json").read_text())
    assert set(result["sets"]) == {"your test set", "general test set"}
    assert set(result["heads"]["after"]) == {"transducer", "ctc"} == set(result["heads"]["before"])
    exp = experiment_of(run, None, [])
    assert exp.languages == ("en", "hi", "el") and exp.train.steps == 4
    old_rows_are_kept(base, run)
    old, new = maya.load(base / "run"), maya.load(run)
    for text in ("ab cd", "fac e"):
        assert new.tokenizer.encode(text) == old.tokenizer.encode(text)
        assert new.tokenizer.decode(old.tokenizer.encode(text)) == text
    # A second time nothing is trained, and the report is the same.
    assert finetune(first)[0] == measured[0]
    assert "train: " + str(run) + " is up to date" in capsys.readouterr().out
    assert run_command(["score", str(run)])[0] == 0  # every later command takes the run


def test_the_general_test_set_is_decoded_once_by_the_model_before(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A second tuning of the same model takes what the first found there; other decoding options, and data
    where nothing can be kept, are decoded."""
    shutil.rmtree(base / "data" / "decoded", ignore_errors=True)  # of other tests
    texts = []
    for name, changes in (
        ("a", {}),
        ("b", {"tune": "norms"}),
        ("c", {"overrides": (*FAST, "decode.method=ctc")}),
    ):
        finetune(options(base, tmp_path / name, **changes))
        texts.append((tmp_path / name / "decode" / "before-general" / "test" / "hyps.jsonl").read_text())
        assert ("are taken from" in capsys.readouterr().out) == (name == "b")
    assert texts[0] == texts[1]
    facts = json.loads((tmp_path / "b" / "decode" / "before-general" / "test" / "decode.json").read_text())
    assert facts["checkpoint"] == str(tmp_path / "b" / "before.pt")
    shutil.rmtree(base / "data" / "decoded")
    (base / "data" / "decoded").write_text("no folder")
    finetune(options(base, tmp_path / "d", tune="top"))
    assert "are taken from" not in capsys.readouterr().out
    (base / "data" / "decoded").unlink()


def test_lora_with_replay(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    finetune(options(base, run, tune="lora", replay=0.5))
    assert "replay: " in capsys.readouterr().out
    saved = load_checkpoint(run / "averaged.pt")
    assert any(map(is_adapter, saved.weights)) and saved.model_config.adapters.type == "lora"
    assert not any(map(is_adapter, maya.load(run).model.state_dict()))
    old_rows_are_kept(base, run)
    mixed = Table.open(part_path(run / "mix", "train"))
    codes, languages = mixed.codes("language")
    seconds = mixed.numbers("duration")
    own = sum(s for s, c in zip(seconds, codes, strict=True) if languages[c] == "el")
    assert own / sum(seconds) == pytest.approx(0.5, abs=0.1)
    assert len({entry.id for entry in mixed.entries()}) == len(mixed)


def test_a_replaced_vocabulary_is_compared_with_the_base_itself(base: Path, tmp_path: Path) -> None:
    finetune(options(base, tmp_path / "run", vocabulary="replace"))
    before, after = (load_checkpoint(tmp_path / "run" / f"{name}.pt") for name in ("before", "averaged"))
    assert before.tokenizer.model_bytes == load_checkpoint(base / "run" / "best.pt").tokenizer.model_bytes
    assert after.tokenizer.model_bytes != before.tokenizer.model_bytes
    assert "a" not in after.tokenizer.pieces(range(after.tokenizer.vocab_size))


def test_pieces_that_fast_speech_has_no_frames_for_are_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The base has all letters, but spells these words letter by letter."""
    folder = tmp_path / "fast"
    folder.mkdir()
    for i in range(12):
        sound = tones.speak("hagecabd fedhabag")
        soundfile.write(folder / f"{i}.wav", sound[: len(sound) // 9], tones.RATE)
        (folder / f"{i}.txt").write_text("hagecabd fedhabag" if i % 2 else "fedhabag hagecabd")
    code = load_checkpoint(base / "run" / "best.pt").model_config.languages[0]
    made = options(base, tmp_path / "run", data=folder, language=code, prepare_only=True)
    finetune(made)
    said = capsys.readouterr().out
    assert "vocabulary: keep (the old pieces have the letters of the texts)" in said
    assert "100% of the utterances have fewer frames than CTC needs for so many pieces" in said
    finetune(dataclasses.replace(made, vocabulary="replace", pieces=24, run_dir=tmp_path / "replaced"))
    assert "fewer frames" not in capsys.readouterr().out


def test_wav_and_txt_files_need_a_language_where_the_model_has_several(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i, text in enumerate(["ab", "cab", "bad a"]):
        soundfile.write(folder / f"{i}.wav", tones.speak(text), tones.RATE)
        (folder / f"{i}.txt").write_text(text)
    with pytest.raises(MayaError, match="--language"):
        finetune(options(base, tmp_path / "run", data=folder))
    finetune(options(base, tmp_path / "run", data=folder, language="en", prepare_only=True))
    assert experiment_of(
        tmp_path / "run", str(tmp_path / "run" / "finetune_experiment.py"), []
    ).train.init_from
    with pytest.raises(MayaError, match="no piece for"):
        finetune(options(base, tmp_path / "kept", vocabulary="keep"))


def test_a_nemo_archive_is_tuned(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "downloaded"
    folder.mkdir()
    to_nemo(maya.load(base / "run"), folder / "tiny.nemo", language="en")
    first = options(base, tmp_path / "run", tune="lora", general=base / "data")
    first = dataclasses.replace(first, base=folder / "tiny.nemo")
    finetune(first)
    assert set(json.loads((tmp_path / "run" / "finetune.json").read_text())["sets"]) == {
        "your test set",
        "general test set",
    }
    old_rows_are_kept(base, tmp_path / "run")
    to_nemo(maya.load(tmp_path / "run"), tmp_path / "tuned.nemo")  # LoRA is merged
    with pytest.raises(MayaError, match=r"holds no checkpoint: .*; name the archive .*tiny.nemo"):
        finetune(dataclasses.replace(first, base=folder))
    (folder / "tiny.nemo").rename(folder / "model.safetensors")
    with pytest.raises(MayaError, match=r"model.safetensors of Hugging Face needs its config.json"):
        finetune(dataclasses.replace(first, base=folder))


def spoken(path: Path, text: str | None, *, rate: int = tones.RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = tones.speak("".join(c for c in text or "ab" if c in f"{tones.LETTERS} "))
    sound = soxr.resample(sound, tones.RATE, rate)
    soundfile.write(path, np.repeat(sound[:, None], channels, axis=1), rate)
    if text is not None:
        path.with_suffix(".txt").write_text(text)


TEXTS = ("ab", "cab", "bad a", "fed", "a bee", "dab")


def test_recordings_of_any_kind_are_taken(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Stereo, another rate, digits and punctuation, files of one name in two folders, an empty file."""
    folder = tmp_path / "mine"
    for i, text in enumerate(TEXTS):
        spoken(folder / "a b" / f"{i}.wav", text, rate=8000)
        spoken(folder / "c" / f"{i}.wav", f"{text}, {i}!", channels=2)
    (folder / "c" / "5.wav").write_bytes(b"")
    finetune(options(base, tmp_path / "run", data=folder, language="en", prepare_only=True))
    out = capsys.readouterr().out
    assert "dropped 1 of 12 (dropped.jsonl): 1 unreadable_audio" in out and "digits: en" in out
    for name in ("list.jsonl", "list.csv", "nemo.json"):
        keys = ("audio_filepath", "text") if name == "nemo.json" else ("audio", "text")
        rows = [dict(zip(keys, (f"mine/a b/{i}.wav", text), strict=True)) for i, text in enumerate(TEXTS)]
        lines = [
            json.dumps(row | {"lang": "en", "language": "en", "id": str(i)}) for i, row in enumerate(rows)
        ]
        if name == "list.csv":
            lines = ["audio,text", *(",".join(row.values()) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        run = tmp_path / f"run-{name}"
        finetune(options(base, run, data=tmp_path / name, language="en", prepare_only=True))
        assert sum(len(Table.open(part_path(run / "data", p))) for p in ("train", "dev", "test")) == 6


@pytest.mark.parametrize(
    ("files", "language", "sentence"),
    [
        ({}, "en", "has no manifest.jsonl"),
        ({"a.wav": None, "b.wav": None}, "en", "2 recordings and no texts: .* maya label --from MODEL"),
        ({"a.wav": "ab", "b.wav": None, "c.wav": None}, "en", "no b.txt beside it; mend them, or do without"),
        ({"a.wav": "ab", "a.flac": "ab"}, "en", "would be the same utterance; remove one"),
        ({"a.wav": "ab"}, "xq", "unknown language 'xq'"),
        ({"a.wav": "ab"}, None, "its language is not given; name one with --language"),
    ],
)
def test_unusable_recordings_get_one_sentence(
    files: dict[str, str | None], language: str | None, sentence: str, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        spoken(tmp_path / "mine" / name, text)
    with pytest.raises(MayaError, match=sentence) as error:
        finetune(options(base, tmp_path / "run", data=tmp_path / "mine", language=language))
    assert "\n" not in str(error.value)


def test_a_tuning_of_another_folder_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        for i, text in enumerate(TEXTS):
            spoken(tmp_path / name / f"{i}.wav", text)
    first = options(base, tmp_path / "run", data=tmp_path / "one", language="en", prepare_only=True)
    finetune(first)
    with pytest.raises(MayaError, match="run holds a tuning on .*one: give that on .*two another --run-dir"):
        finetune(dataclasses.replace(first, data=tmp_path / "two"))
    (tmp_path / "one").rename(tmp_path / "moved")  # the same recordings in another place
    finetune(dataclasses.replace(first, data=tmp_path / "moved"))


def test_few_recordings_and_a_test_set_that_is_trained_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One utterance cannot be tested on; those of the test set that are in training too are counted."""
    spoken(tmp_path / "one" / "a.wav", "ab")
    assert finetune(options(base, tmp_path / "run", data=tmp_path / "one", language="en")) == []
    assert "without a test set nothing can be said" in capsys.readouterr().out
    folder, lines = tmp_path / "twice", []
    for i, text in enumerate(TEXTS):
        spoken(folder / f"{i}.wav", text)
        row = {"audio": f"{i}.wav", "text": text, "language": "en"}
        lines += [json.dumps(row | {"id": f"{i}-{part}", "split": part}) for part in ("train", "test")]
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    finetune(options(base, tmp_path / "leak", data=folder, general=folder.parent / "run" / "data"))
    out = capsys.readouterr().out
    assert "recordings of your test set are in your training set as well" in out and "nan" not in out
    assert "(10 are needed)" in out


def test_replay_leaves_out_what_is_tested_on(base: Path, tmp_path: Path) -> None:
    data = base / "data"
    own = Table.open(part_path(data, "test"))
    assert not same_sound(own, Table.open(part_path(data, "train"))).any() and same_sound(own, own).all()
    general = tmp_path / "general"
    shutil.copytree(data, general)
    shutil.copy(part_path(data, "test"), part_path(general, "train"))
    with pytest.raises(MayaError, match="has no training utterances"):
        mix(data, general, tmp_path / "mix", share=0.5, languages=("en", "hi"), seed=1)


def test_settings_follow_the_hours() -> None:
    encoder = tiny.experiment().model.encoder

    def chosen(hours: float, **changes: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "seconds": 3600 * hours, "longest": 10.0, "old_pieces": 50, "tune": "all", "vocabulary": "keep",
            "gpu": False,
        }  # fmt: skip
        return settings.choose(settings.Facts(**(facts | changes)), encoder)

    def passes(options: dict[str, Any], hours: float) -> float:
        return options["train.steps"] * options["data.plan.max_seconds"] / (3600 * hours)

    small, large = chosen(1 / 6), chosen(100)
    assert passes(small, 1 / 6) > 25 and passes(large, 100) == pytest.approx(3, abs=0.1)
    assert "data.speed_perturb" in small and "data.speed_perturb" not in large
    assert small["train.encoder_lr"] < small["train.lr"]
    assert "train.fixed_pieces" not in chosen(1, vocabulary="extend")
    lora = chosen(1, tune="lora", vocabulary="extend")
    assert (
        lora["train.fixed_pieces"] == 50
        and lora["train.learn"] == "adapters"
        and lora["train.learn_vocabulary"] == "true"
    )
    exp = tiny.experiment()
    for tune in ("all", "top", "norms", "lora", "bottleneck"):
        for vocabulary in ("keep", "extend", "replace"):
            settings.apply(exp, chosen(1, tune=tune, vocabulary=vocabulary))


@pytest.mark.slow
def test_both_heads_learn_a_new_vocabulary(tmp_path: Path) -> None:
    """The trap of hybrid models: CTC learns new pieces and TDT does not (NeMo issues 13825, 14140, 15792)."""
    exp = tiny.experiment()
    exp.train.steps, exp.train.lr, exp.train.warmup_steps = 200, 5e-3, 20
    exp.train.valid_every = exp.train.save_every = 50
    tiny.prepare_run(exp, tmp_path, utterances=60)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    greek_corpus(tmp_path / "greek", 60)
    steps = ("train.steps=75", "train.warmup_steps=10", "train.valid_every=25", "train.lr=5e-3")
    for vocabulary, most in (("extend", 0.9), ("replace", 0.4)):
        out = tmp_path / vocabulary
        finetune(options(tmp_path, out, vocabulary=vocabulary, overrides=steps))
        heads = json.loads((out / "finetune.json").read_text())["heads"]
        assert heads["stuck"] == []
        for head in ("transducer", "ctc"):
            assert heads["after"][head] < most * heads["before"][head], (vocabulary, head)


def hypotheses(path: Path, wrong: set[int], count: int = 60) -> Path:
    rows = [
        {
            "id": f"{i}",
            "language": "en",
            "ref": "a b c d",
            "text": "a x c d" if i in wrong else "a b c d",
            "duration": 1.0,
            "speaker": "s",
            "snr": None,
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_noise_is_no_improvement(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (set(rng.choice(60, size, replace=False).tolist()) for size in (20, 18))
    before = hypotheses(tmp_path / "before", first)
    (word, _) = verdict.judge(before, hypotheses(tmp_path / "after", second))
    assert word.verdict == "no significant change" and word.comparison.difference < 0
    assert verdict.judge(before, hypotheses(tmp_path / "better", set(list(first)[:2])))[0].verdict == "better"
    assert verdict.judge(before, hypotheses(tmp_path / "worse", set(range(50))))[0].verdict == "worse"
    few = [hypotheses(tmp_path / f"few{i}", wrong, 6) for i, wrong in enumerate(({1, 2, 3}, set()))]
    assert verdict.judge(*few)[0].verdict.startswith("too few utterances")
    assert verdict.judge(before, before)[0].verdict == "no significant change"


def test_a_stuck_head_is_named() -> None:
    before = {"transducer": 0.9, "ctc": 0.9}
    assert verdict.stuck_heads(before, {"transducer": 0.88, "ctc": 0.2}) == ["transducer"]
    assert not verdict.stuck_heads(before, {"transducer": 0.3, "ctc": 0.2})
    assert not verdict.stuck_heads({"transducer": 0.05, "ctc": 0.5}, {"transducer": 0.05, "ctc": 0.02})
    assert "decoding uses ctc" in verdict.advice(["transducer"], "ctc")


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_labels_are_corrected_and_come_back(base: Path, tmp_path: Path, suffix: str) -> None:
    table, audio = tmp_path / f"review{suffix}", tmp_path / "audio"
    audio.mkdir()
    for i in range(4):
        shutil.copy(base / "corpus" / f"en-00{i}.wav", audio)
    assert label(base / "run", [str(audio)], table, language="en") == 4
    rows = read_rows(table)
    assert [r.confidence for r in rows] == sorted(r.confidence for r in rows)
    with pytest.raises(MayaError, match="may hold corrections"):
        label(base / "run", [str(audio)], table, language="en")
    with pytest.raises(MayaError, match="no row is checked"):
        take(table, tmp_path / "none", min_confidence=1.0)
    edited = [dataclasses.replace(rows[0], text="bad cab", checked="x"),
              dataclasses.replace(rows[1], text="ab", checked="-"),
              dataclasses.replace(rows[2], text="fed", confidence=0.99),
              dataclasses.replace(rows[3], text="", checked="x")]  # fmt: skip
    write_rows(table, edited)
    assert take(table, tmp_path / "taken", min_confidence=0.95) == 2
    read, problems = read_corpus(tmp_path / "taken")
    assert not problems and {row.text for row in read} == {"bad cab", "fed"}
    assert {row.language for row in read} == {"en"} and all(Path(row.audio).is_file() for row in read)
    assert run_command(["label", "--take", str(table), "--out", str(tmp_path / "again")])[0] == 0
    assert run_command(["label", "--table", "x.tsv"])[0] == 1
