"""egs/stages.sh, sourced as a recipe's run.sh does."""

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from maya.config import override
from maya.recipes import presets
from maya.recipes.aliases import ALIASES, add_aliases, is_switch, overrides_of
from maya.recipes.experiment import Experiment

SCRIPT = r"""#!/usr/bin/env bash
# What it does.
#
#   --stage N   where to begin
set -euo pipefail
stage=0
stop_stage=6
name=
work_dir=here
. "$OPTIONS"
for i in 0 1 2 3 4 5 6; do
  if due "$i"; then echo "due $i ${force[*]}"; fi
done
echo "stage=$stage stop_stage=$stop_stage name=$name work_dir=$work_dir"
printf 'overrides:'; printf ' <%s>' "${overrides[@]}"; echo
"""


def run(tmp_path: Path, repo: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "run.sh"
    script.write_text(SCRIPT)
    env = {"OPTIONS": str(repo / "egs" / "stages.sh"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", script, *options], env=env, capture_output=True, text=True, timeout=20)


def test_options_set_variables_and_overrides(tmp_path: Path, repo: Path) -> None:
    options = (
        "--name",
        "my run",
        "--work-dir=a=b",
        "--train.lr",
        "1e-3",
        "--stop-stage",
        "3",
        "--stage",
        "2",
    )
    done = run(tmp_path, repo, *options, "--model.encoder.dropout=0.2")
    assert done.returncode == 0, done.stderr
    *due, variables, overrides = done.stdout.splitlines()
    assert variables == "stage=2 stop_stage=3 name=my run work_dir=a=b"
    assert overrides == "overrides: <--set> <train.lr=1e-3> <--set> <model.encoder.dropout=0.2>"
    assert due == ["due 2 --force", "due 3 "]  # a stage that is named runs even if it is up to date


def test_options_of_the_earlier_system_are_translated(tmp_path: Path, repo: Path) -> None:
    """run.sh translates each row of the table as `maya` does."""
    options = [part for name in ALIASES for part in ([name] if is_switch(name) else [name, "7"])]
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    add_aliases(parser)
    expected = [override for name in ALIASES for override in overrides_of(name, 7)]
    assert expected[2:4] == ["train.freeze=encoder", "train.freeze_steps=7"]
    assert parser.parse_args(options).overrides == expected
    assert parser.parse_args([]).overrides == []
    done = run(tmp_path, repo, *options, "--encoder-lr=1e-5", "--stage", "2")
    assert done.returncode == 0, done.stderr
    overrides = done.stdout.splitlines()[-1].removeprefix("overrides: ")
    assert overrides == " ".join(f"<--set> <{each}>" for each in [*expected, "train.encoder_lr=1e-5"])
    assert "stage=2" in done.stdout
    assert run(tmp_path, repo, "--head-lr").returncode == 1


def test_meaning_of_translated_options() -> None:
    exp = Experiment(name="x", model=presets.tiny())
    for name, value in {
        "--encoder-lr": "2e-5", "--head-lr": "1e-3", "--freeze-encoder-steps": "5000",
        "--ctc-warmup-steps": "3000", "--max-batch-dur": "240", "--max-batch-size": "64",
        "--max-tokens-in-batch": "400", "--temperature": "0.3", "--grad-accum": "4", "--no-lang-embed": "",
    }.items():  # fmt: skip
        for assignment in overrides_of(name, value):
            override(exp, assignment)
    assert (exp.train.encoder_lr, exp.train.lr, exp.train.freeze_steps) == (2e-5, 1e-3, 5000)
    assert exp.train.freeze == ("encoder",)
    assert exp.model.heads["ctc"].ramp_steps == 3000
    assert (exp.train.accumulate, exp.model.language_embedding) == (4, False)
    plan = exp.data.plan
    assert (plan.max_seconds, plan.max_utterances, plan.max_tokens, plan.temperature) == (240, 64, 400, 0.3)
    assert Experiment(name="x").data.plan.max_tokens is None  # no cap on tokens by default


def test_defaults(tmp_path: Path, repo: Path) -> None:
    done = run(tmp_path, repo)
    assert [line.strip() for line in done.stdout.splitlines()[:7]] == [f"due {i}" for i in range(7)]
    assert "name= work_dir=here" in done.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--stagee", "1"], "unknown option --stagee"),
        (["--stagee=1"], "unknown option --stagee"),
        (["--PATH", "x"], "unknown option --PATH"),
        (["--1x", "x"], "unknown option --1x"),
        (["--stage"], "--stage needs a value"),
        (["--train.lr"], "--train.lr needs a value"),
        (["3"], "unexpected argument 3"),
        (["--stage", "x"], "--stage must be the number of a stage, not 'x'"),
        (["--stop-stage", "2.5"], "--stop-stage must be the number of a stage, not '2.5'"),
        (["--stage", "-1"], "--stage must be the number of a stage, not '-1'"),
        (["--stage", "4", "--stop-stage", "3"], "--stage 4 is after --stop-stage 3"),
        (["--stage", "7"], "--stage 7 is after --stop-stage 6"),
        (["--gpus", "two"], "--gpus must be auto or a number, not 'two'"),
        (["--cpu", "yes"], "--cpu must be true or false, not 'yes'"),  # `yes` is a command
    ],
)
def test_mistyped_options_are_refused(tmp_path: Path, repo: Path, options: list[str], complaint: str) -> None:
    done = run(tmp_path, repo, *options)
    assert done.returncode == 1 and complaint in done.stderr and done.stdout == ""


def test_help_prints_the_header_comment(tmp_path: Path, repo: Path) -> None:
    done = run(tmp_path, repo, "--help")
    assert done.returncode == 0
    assert done.stdout == "What it does.\n\n  --stage N   where to begin\n"


def test_set_reaches_fields_without_a_dot(tmp_path: Path, repo: Path) -> None:
    done = run(tmp_path, repo, "--set", "languages=hi,ta", "--set=name=other")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "overrides: <--set> <languages=hi,ta> <--set> <name=other>"
    assert run(tmp_path, repo, "--set").returncode == 1


@pytest.mark.parametrize(
    ("slip", "name"),
    [
        ("--stagee", "--stage"),
        ("--stge=3", "--stage"),
        ("--encodr-lr", "--encoder-lr"),
        ("--grad-acum", "--grad-accum"),
        ("--hlep", "--help"),
        ("--sett", "--set"),
        ("--stag", "--stage"),
    ],
)
def test_unknown_option_suggests_the_nearest(tmp_path: Path, repo: Path, slip: str, name: str) -> None:
    done = run(tmp_path, repo, slip, "1")
    option = slip.partition("=")[0]
    assert done.returncode == 1
    assert f"unknown option {option}; did you mean {name}?; see" in done.stderr
    assert "did you mean" not in run(tmp_path, repo, "--quite-another", "1").stderr


RESOLVE = r"""#!/usr/bin/env bash
# --experiment NAME   which
set -euo pipefail
start_dir=$PWD
cd "$TOP"
experiment=base
. "$OPTIONS"
resolve_experiment one
echo "$experiment|$experiment_file"
"""


@pytest.fixture
def resolve(tmp_path: Path, repo: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in tmp_path/here that resolves --experiment among the experiments of tmp_path/top."""
    for name in ("base", "large", "v1.5"):
        path = tmp_path / "top" / "egs" / "one" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def experiment():\n    pass\n")
    (tmp_path / "top" / "egs" / "one" / "large.py").open("a").write("\n\ndef big():\n    pass\n")
    (tmp_path / "here" / "my dir").mkdir(parents=True)
    for name in ("mine", "base", "my dir/other"):
        (tmp_path / "here" / f"{name}.py").write_text("")
    (tmp_path / "run.sh").write_text(RESOLVE)

    def call(experiment: str) -> subprocess.CompletedProcess[str]:
        env = {
            "OPTIONS": str(repo / "egs" / "stages.sh"), "PATH": "/usr/bin:/bin",
            "TOP": str(tmp_path / "top"),
        }  # fmt: skip
        command = ["bash", str(tmp_path / "run.sh"), "--experiment", experiment]
        here = tmp_path / "here"
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, cwd=here)

    return call


@pytest.mark.parametrize(
    ("experiment", "name", "file"),
    [
        ("base", "base", "egs.one.base"),
        ("v1.5", "v1.5", "egs.one.v1.5"),
        ("egs.two.other", "other", "egs.two.other"),
        ("large:big", "large_big", "egs.one.large:big"),
        ("egs.two.other:big", "other_big", "egs.two.other:big"),
        ("./mine.py:big", "mine_big", "{here}/./mine.py:big"),
        ("my dir/other:big", "other_big", "{here}/my dir/other.py:big"),
        ("./mine.py", "mine", "{here}/./mine.py"),
        ("mine.py", "mine", "{here}/mine.py"),
        ("./base", "base", "{here}/./base.py"),
        ("my dir/other.py", "other", "{here}/my dir/other.py"),
        ("{here}/mine.py", "mine", "{here}/mine.py"),
        ("../top/egs/one/large.py", "large", "{here}/../top/egs/one/large.py"),
    ],
)
def test_experiment_by_name_module_or_file(
    tmp_path: Path,
    resolve: Callable[..., subprocess.CompletedProcess[str]],
    experiment: str,
    name: str,
    file: str,
) -> None:
    here = str(tmp_path / "here")
    done = resolve(experiment.format(here=here))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name}|{file.format(here=here)}\n"


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ("./nothing.py", "there is no experiment file {here}/./nothing.py"),
        (
            "larg",
            "there is no experiment larg in egs/one; did you mean large?; a file of your own is ./NAME.py",
        ),
        ("mine", "there is no experiment mine in egs/one; a file of your own is ./NAME.py"),
        ("large:bigg", "there is no experiment large:bigg in egs/one; did you mean large:big?"),
        ("large_big", "there is no experiment large_big in egs/one; did you mean large:big?"),
    ],
)
def test_missing_experiment_is_refused(
    tmp_path: Path, resolve: Callable[..., subprocess.CompletedProcess[str]], experiment: str, sentence: str
) -> None:
    done = resolve(experiment)
    assert done.returncode == 1 and sentence.format(here=tmp_path / "here") in done.stderr


def test_every_recipe_resolves_its_experiment(repo: Path) -> None:
    for script in repo.glob("egs/*/run.sh"):
        text = script.read_text()
        # A recipe that runs `maya finetune` has none to resolve: it takes that of the tuned model.
        resolves = ("\nexperiment=" in text or "--experiment" in text) and "maya finetune" not in text
        assert (f"begin {script.parent.name}\n" in text) is resolves, script


@pytest.mark.parametrize(
    ("processes", "called"),
    [
        ("1", "maya train --set a=b c"),
        ("0", "maya train --set a=b c"),
        ("4", "python -m maya.recipes.launch --standalone --nproc-per-node 4 train --set a=b c"),
    ],
)
def test_multi_process_runs_use_the_launcher(repo: Path, processes: str, called: str) -> None:
    script = (
        '. "$OPTIONS"; maya() { echo maya "$@"; }; python() { echo python "$@"; }\n'
        f'launch {processes} train --set "a=b c"'
    )
    env = {"OPTIONS": str(repo / "egs" / "stages.sh"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == called, done.stderr


def has_set(repo: Path, data: Path, name: str) -> tuple[bool, str]:
    script = f'data=$1 part=$2; set --; . "{repo}/egs/stages.sh"; set -euo pipefail\n'
    script += 'if has_set "$data" "$part" 5; then echo yes; fi'
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(data), name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.endswith("yes\n"), done.stdout.removesuffix("yes\n")


@pytest.mark.parametrize("counts", [{"hi": 0, "en": 0}, {"hi": 0, "en": 2}])
def test_empty_split_skips_the_stage(repo: Path, tmp_path: Path, counts: dict[str, int]) -> None:
    splits = {code: {"parts": {"test": {"utterances": n}}} for code, n in counts.items()}
    (tmp_path / "summary.json").write_text(json.dumps({"splits": splits}))
    exists, message = has_set(repo, tmp_path, "test")
    assert exists == any(counts.values())
    assert message == ("" if exists else f"{tmp_path} has no test set: stage 5 is left out\n")


@pytest.mark.parametrize("text", [None, "", "[]", '{"splits": {"hi": 1}}', "{"])
def test_data_without_a_summary_do_not_skip_the_stage(repo: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert has_set(repo, tmp_path, "test") == (True, "")


def test_work_folder_is_relative_to_the_caller(repo: Path, tmp_path: Path) -> None:
    script = 'start_dir=$PWD; cd /; . "$OPTIONS"; echo "$work"'
    env = {"OPTIONS": str(repo / "egs" / "stages.sh"), "PATH": "/usr/bin:/bin"}
    for options, expected in (
        (["--work", "mine"], str(tmp_path / "mine")),
        (["--work=/x/y"], "/x/y"),
        ([], ""),
    ):
        done = subprocess.run(
            ["bash", "-c", script, "run.sh", *options], env=env, cwd=tmp_path, capture_output=True, text=True,
            timeout=20,
        )  # fmt: skip
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(
    ("experiment", "folder"),
    [
        ("egs.indic12.large", "large"),
        ("egs.librispeech.zipformer:medium", "zipformer_medium"),
        ("./mine.py", "mine"),
        ("/home/me/mine.py:other", "mine_other"),
    ],
)
def test_prod_readiness_looks_at_the_run_of_run_sh(repo: Path, experiment: str, folder: str) -> None:
    """`make prod-readiness` names the run folder as `begin` of stages.sh does."""
    options = ["prod-readiness", f"EXPERIMENT={experiment}", "DATA=exp/c/data"]
    done = subprocess.run(["make", "-n", *options], cwd=repo, capture_output=True, text=True, timeout=20)
    assert f'--run-dir "exp/c/{folder}"' in done.stdout, done.stderr
