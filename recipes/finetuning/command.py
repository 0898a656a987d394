"""Tune a trained model to recordings of your own: one command from a folder to a better model, or to the
statement that it is not better.

    RUN/data         the prepared recordings         RUN/start.pt, before.pt   the model before
    RUN/averaged.pt  the tuned model                 RUN/finetune.md, .json    before and after
The other files are those of any training, and every command takes RUN.
"""

import argparse
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from maya.config import to_dict
from maya.data.corpus.folder import read_corpus
from maya.data.table.table import Table, part_path
from maya.decode.recognizer import choose_device
from maya.errors import MayaError
from maya.files import read_json, write_json
from maya.models.speech_model import SpeechModel
from maya.ranges import Range
from maya.recipes.arguments import CORPUS, COUNT, add_set, number
from maya.recipes.average import average
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment, apply_overrides
from maya.recipes.finetuning import settings, verdict
from maya.recipes.finetuning.base import (
    CROWDED,
    check_texts,
    choose_vocabulary,
    crowded_share,
    open_base,
    texts_of,
    write_start,
)
from maya.recipes.finetuning.mix import mix, same_sound
from maya.recipes.markers import content, is_done, mark_done, stamp, table_identity
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import dev_validation, train
from maya.score.report import percent
from maya.text.languages import language_code
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint
from maya.train.heads import scores_by_head, trained_names

_SATURATED = 0.9  # WER above which words tell little

_EXPERIMENT = '''"""The experiment of this tuning, written by `maya finetune`."""

import json
from pathlib import Path

from maya.config import from_dict
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return from_dict(Experiment, json.loads(Path(__file__).with_suffix(".json").read_text()))
'''


def arguments(p: argparse.ArgumentParser) -> None:
    text = "the model to start from: a run folder, a .pt file or a .nemo archive"
    p.add_argument("--from", type=Path, required=True, dest="base", metavar="MODEL", help=text)
    text = f"your recordings: {CORPUS}; or a folder that `maya prepare` wrote"
    p.add_argument("--data", type=Path, required=True, metavar="FOLDER", help=text)
    p.add_argument("--run-dir", type=Path, help="the folder to write; default: exp/finetune/NAME-OF-FOLDER")
    p.add_argument("--language", help="code of the spoken language, if the data do not name it")
    text = "the weights that learn: all (the default), top layers and heads, those of norms, LoRA or adapters"
    p.add_argument("--tune", choices=get_args(settings.Tune), default="all", help=text)
    text = "auto (the default): keep it, or extend it where it lacks letters; old pieces keep their rows"
    choices = ("auto", *get_args(settings.Vocabulary))
    p.add_argument("--vocabulary", choices=choices, default="auto", help=text)
    text = "new pieces to train; default: by the amount of text"
    p.add_argument("--pieces", type=COUNT, default=0, metavar="N", help=text)
    text = "prepared data to measure forgetting on; default: those of MODEL's training"
    p.add_argument("--general", type=Path, metavar="DATA", help=text)
    text = "mix this share of the general training data into each pass, such as 0.3; less is forgotten"
    share = number(float, Range(min=0, below=1))
    p.add_argument("--replay", type=share, default=0.0, metavar="SHARE", help=text)
    p.add_argument("--cpu", action="store_true", help="train on the CPU, even if there is a GPU")
    text = "stop before training, and print the command that trains on several GPUs"
    p.add_argument("--prepare-only", action="store_true", help=text)
    add_set(p)


def run(args: argparse.Namespace) -> None:
    options = Options(
        base=args.base, data=args.data,
        run_dir=args.run_dir or Path("exp/finetune") / args.data.resolve().name,
        language=args.language, tune=args.tune, vocabulary=args.vocabulary, pieces=args.pieces,
        general=args.general, replay=args.replay, cpu=args.cpu, prepare_only=args.prepare_only,
        overrides=tuple(args.overrides),
    )  # fmt: skip
    finetune(options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of `maya finetune`; see `arguments`. vocabulary: keep, extend, replace or auto."""

    base: Path
    data: Path
    run_dir: Path
    language: str | None = None
    tune: settings.Tune = "all"
    vocabulary: str = "auto"
    pieces: int = 0
    general: Path | None = None
    replay: float = 0.0
    cpu: bool = False
    prepare_only: bool = False
    overrides: Sequence[str] = ()


def finetune(options: Options) -> list[verdict.RateChange]:
    """Tune a model, and compare it with what it was on the test set of the data and on a general one.

    Returns the rates measured on the test set of the data; empty where it has none. The stages are those of
    any training, so a run that was stopped continues. Raises MayaError as they do.
    """
    folder, base = options.run_dir, open_base(options.base)
    data, spoken = prepared(options, base)
    experiment = planned(options, base, data, spoken)
    if options.prepare_only:
        print(_by_hand(folder, training_data(options, data, experiment)))
        return []
    trained_on = training_data(options, data, experiment)
    before = heads_on_dev(experiment, data, folder)
    tokenizer(experiment, trained_on, folder)
    train(experiment, trained_on, folder, cpu=options.cpu)
    average(experiment, trained_on, folder)
    return report(options, experiment, data, before)


def _by_hand(folder: Path, data: Path) -> str:
    """The commands that train; afterwards `maya finetune` with the same options goes on with the rest."""
    words = f"--data {data} --run-dir {folder}"
    train_words = f"train --experiment {folder / 'finetune_experiment.py'} {words}"
    return (
        f"finetune: ready to train. On N GPUs of this machine:\n"
        f"  maya tokenizer --experiment {folder / 'finetune_experiment.py'} {words}\n"
        f"  python -m maya.recipes.launch --standalone --nproc-per-node N {train_words}\n"
        "then run the same `maya finetune` without --prepare-only: it averages and compares"
    )


def prepared(options: Options, base: Checkpoint) -> tuple[Path, tuple[str, ...]]:
    """The prepared data, and the languages spoken there."""
    if (options.data / "stage.json").is_file() and part_path(options.data, "train").is_file():
        codes, languages = Table.open(part_path(options.data, "train")).codes("language")
        return options.data, tuple(languages[i] for i in sorted(set(codes.tolist())))
    languages_before = base.model_config.languages
    default = (
        language_code(options.language)
        if options.language
        else languages_before[0]
        if len(languages_before) == 1
        else None
    )
    try:
        rows, _ = read_corpus(options.data, language=default, made=options.run_dir / "data")
    except MayaError as error:
        raise MayaError(str(error).replace("prepare.language", "--language")) from None
    spoken = tuple(sorted({row.language for row in rows}))
    refuse_another_folder(options)
    own = Experiment(name="finetune", languages=spoken)
    own.prepare.language = default
    own.prepare.split.test, own.prepare.split.max_hours = 0.2, 1.0
    own = apply_overrides(own, [o for o in options.overrides if o.startswith("prepare.")])
    prepare(own, options.data, options.run_dir / "data")
    return options.run_dir / "data", spoken


def refuse_another_folder(options: Options) -> None:
    """Raise MayaError where the run folder belongs to another folder of recordings, which is still there."""
    earlier = read_json(options.run_dir / "data" / "stage.json").get("inputs", {}).get("corpus")
    if earlier and Path(earlier).exists() and Path(earlier).resolve() != options.data.resolve():
        raise MayaError(
            f"{options.run_dir} holds a tuning on {earlier}: give that on {options.data} another --run-dir"
        )


def planned(options: Options, base: Checkpoint, data: Path, spoken: Sequence[str]) -> Experiment:
    """The experiment, printed; writes start.pt, before.pt, the tokenizer and the experiment's file."""
    folder, table = options.run_dir, Table.open(part_path(data, "train"))
    texts = texts_of(table)
    start = choose_vocabulary(base, texts, options.vocabulary, options.pieces)
    check_texts(start, texts)
    languages_before = base.model_config.languages
    languages = (*languages_before, *(code for code in spoken if code not in languages_before))
    facts = settings.Facts(
        seconds=float(table.numbers("duration").sum()), longest=float(table.numbers("duration").max()),
        old_pieces=base.tokenizer.vocab_size, tune=options.tune, vocabulary=start.vocabulary,
        gpu=not options.cpu and choose_device("auto").type == "cuda",
    )  # fmt: skip
    chosen = settings.choose(facts, base.model_config.encoder)
    experiment = Experiment(name=f"finetune/{folder.name}", languages=languages)
    experiment.model = copy.deepcopy(base.model_config)
    for head in experiment.model.heads.values():
        if start.vocabulary == "replace":
            head.first_step = head.ramp_steps = 0
        else:
            head.skip_ramps()
    experiment.tokenizer.file = str((folder / "vocabulary.model").absolute())
    experiment.train.init_from = str((folder / "start.pt").absolute())
    experiment.train.seed = 1
    settings.apply(experiment, chosen)
    apply_overrides(experiment, options.overrides)
    embedding = ("language_embedding",) if experiment.model.language_embedding else ()
    experiment.train.init_modules = ("encoder", *experiment.model.heads, *embedding)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {
        "base": stamp(options.base), "texts": table.texts_digest, "languages": list(languages),
        "vocabulary": [start.vocabulary, options.pieces, experiment.train.seed],
    }  # fmt: skip
    if not is_done(folder / "stage-start.json", inputs):
        start.tokenizer.save(experiment.tokenizer.file)
        write_start(base, start, languages, folder, experiment.train.seed)
        mark_done(folder / "stage-start.json", inputs)
    (folder / "finetune_experiment.py").write_text(_EXPERIMENT)
    write_json(folder / "finetune_experiment.json", to_dict(experiment))
    new = [code for code in spoken if code not in languages_before]
    print(
        f"finetune: {facts.hours:.2f} h in {', '.join(spoken)}" + (f" (new: {', '.join(new)})" if new else "")
    )
    print(f"finetune: vocabulary: {start.vocabulary} ({start.reason}): {start.tokenizer.vocab_size} pieces")
    if (short := crowded_share(experiment.model, table, start.tokenizer)) > CROWDED:
        print(
            f"finetune: {short:.0%} of the utterances have fewer frames than CTC needs for so many pieces "
            "and are left out; --vocabulary replace --pieces N makes longer pieces, which learn more slowly"
        )
    print(f"finetune: settings for this amount of audio; override any with --set\n  {settings.shown(chosen)}")
    return experiment


def training_data(options: Options, data: Path, experiment: Experiment) -> Path:
    """The data to train on: the own, or mixed with general ones."""
    if not options.replay:
        return data
    general = general_data(options)
    if general is None:
        raise MayaError("--replay needs general data: name a folder that `maya prepare` wrote with --general")
    return mix(
        data, general, options.run_dir / "mix", share=options.replay, languages=experiment.languages,
        seed=experiment.train.seed,
    )  # fmt: skip


def general_data(options: Options) -> Path | None:
    """The general data: those given, or those of the base's training."""
    return options.general or base_data(options)


def base_data(options: Options) -> Path | None:
    """The data that the base's run recorded, if they are there."""
    recorded = read_json(options.base / "environment.json").get("data") if options.base.is_dir() else None
    return Path(recorded) if recorded and Path(recorded).is_dir() else None


def heads_on_dev(experiment: Experiment, data: Path, folder: Path) -> dict[str, float]:
    """The CER of each text head on dev before tuning; empty without a dev set. Kept in heads_before.json."""
    kept = folder / "heads_before.json"
    inputs = {"model": content(folder / "before.pt"), "dev": table_identity(data, "dev")}
    if (earlier := read_json(kept)).get("inputs") == inputs:
        return dict(earlier["cer"])
    checkpoint = load_checkpoint(folder / "before.pt")
    languages, trained = checkpoint.model_config.languages, trained_names(checkpoint)
    own = dataclasses.replace(experiment, model=checkpoint.model_config)
    validate = dev_validation(own, data, checkpoint.tokenizer, languages)
    if validate is None:
        return {}
    model = SpeechModel(checkpoint.model_config)
    model.load_state_dict(checkpoint.weights)
    scores = validate(model.to(choose_device("auto")), trained)
    rates = _cer_of(scores_by_head(scores, tuple(model.heads)))
    write_json(kept, {"inputs": inputs, "cer": rates})
    return rates


def _cer_of(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {head: rates["cer"] for head, rates in scores.items() if "cer" in rates}


def report(
    options: Options, experiment: Experiment, data: Path, before: Mapping[str, float]
) -> list[verdict.RateChange]:
    """Decode before and after, print the comparison, and write finetune.md and finetune.json."""
    folder = options.run_dir
    sets = {"your test set": (data, "")}
    if (general := general_data(options)) is not None:
        sets["general test set"] = (general, "general")
    measured: dict[str, list[verdict.RateChange]] = {}
    for title, (place, into) in sets.items():
        if part_path(place, "test").is_file() and len(Table.open(part_path(place, "test"))):
            measured[title] = _compared(experiment, place, folder, into)
        else:
            print(f"finetune: {place} has no test set: nothing is measured there")
    after = _cer_of(load_checkpoint(folder / "averaged.pt").notes.get("heads", {}))
    stuck = verdict.stuck_heads(before, after)
    text = "\n".join([verdict.HEADER, *(verdict.line(t, m) for t, ms in measured.items() for m in ms)])
    notes = [
        f"head {h}: CER on dev {100 * before.get(h, np.nan):.1f} → {100 * r:.1f} %" for h, r in after.items()
    ]
    notes += [conclusion(measured), *leaks(options, data, experiment)]
    if stuck:
        notes.append(verdict.advice(stuck, min(after, key=lambda head: after[head])))
    if general is None:
        notes.append("forgetting was not measured: name prepared general data with --general")
    (folder / "finetune.md").write_text("\n".join([text, "", *notes, ""]))
    results = {title: {m.name: m.as_json() for m in ms} for title, ms in measured.items()}
    heads = {"before": dict(before), "after": after, "stuck": stuck}
    write_json(folder / "finetune.json", {"sets": results, "heads": heads, "conclusion": notes})
    print("\n".join(["", text, "", *notes, f"report      {folder / 'finetune.md'}"]))
    return measured.get("your test set", [])


def leaks(options: Options, data: Path, experiment: Experiment) -> list[str]:
    """Sentences about test utterances whose audio is in training data too, of the tuning or of the base."""
    trained_on, base, general = (
        training_data(options, data, experiment),
        base_data(options),
        general_data(options),
    )
    pairs = (
        ("your test set", data, trained_on, "your training set"),
        ("your test set", data, base, "the training set of the model that you started from"),
        ("the general test set", general, trained_on, "your training set"),
    )
    sentences = []
    for name, tested, learnt, where in pairs:
        if tested and learnt and part_path(tested, "test").is_file() and part_path(learnt, "train").is_file():
            test = Table.open(part_path(tested, "test"))
            if count := int(same_sound(test, Table.open(part_path(learnt, "train"))).sum()):
                sentences.append(
                    f"{count} of the {len(test)} recordings of {name} are in {where} as well: "
                    "its rates look better than they are"
                )
    return sentences


def _compared(experiment: Experiment, data: Path, folder: Path, into: str) -> list[verdict.RateChange]:
    """Decode a test set with the model as it was and as it is; its places under decode/: `into`/test and
    before/test, or before-`into`/test."""
    was = f"before-{into}" if into else "before"
    # The general data see every tuning: what the model was there is the same in all that keep its vocabulary.
    kept = data / "decoded" if data != folder / "data" else None
    decode(experiment, data, folder, split="test", into=was, checkpoint=folder / "before.pt", kept=kept)
    decode(experiment, data, folder, split="test", into=into, checkpoint=folder / "averaged.pt")
    for name in (was, into):
        score(folder, split=f"{name}/test" if name else "test", data=data, show=False)
    return verdict.judge(*(folder / "decode" / name / "test" / "hyps.jsonl" for name in (was, into)))


def conclusion(measured: Mapping[str, Sequence[verdict.RateChange]]) -> str:
    """One sentence on whether the tuning was worth it: by words, or by characters where nearly all words are
    wrong before and after."""
    own = {m.name: m for m in measured.get("your test set", [])}
    if not own:
        return "without a test set nothing can be said about the tuned model"
    general = {m.name: m for m in measured.get("general test set", [])}
    saturated = min(own["WER"].rates) > _SATURATED
    name, unit = ("CER", "characters") if saturated else ("WER", "words")
    m, errors = own[name], 1000 * own[name].comparison.difference
    what = {
        "better": f"better on your speech: {-errors:.0f} fewer errors in 1000 {unit}",
        "worse": f"worse on your speech: {errors:.0f} more errors in 1000 {unit}; keep the old model",
    }.get(m.verdict, f"{m.verdict}: the difference on your test set may be chance")
    if saturated:
        what += f"; {percent(own['WER'].rates[1])} % of the words are wrong: more data or steps are needed"
    if name in general and general[name].verdict == "worse":
        what += "; worse on general speech: try --replay 0.3"
    return what
