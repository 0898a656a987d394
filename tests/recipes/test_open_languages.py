"""Languages without an entry in the language table, from corpus to score."""

import json
from pathlib import Path
from typing import Any

import pytest

from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.evaluate import read_rows
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.score.measures.normalizers import normal_form
from maya.score.report import Utterance, make_report
from maya.text.load import load_tokenizer
from tests.data.making import write_manifest, write_tone

WORDS = {
    "fr": ["L'un", "deux", "trois", "été"],
    "ur": ["ایک", "دو", "تین", "چار"],
    "el": ["Ένα", "δύο", "τρία", "ΤΈΛΟΣ"],
    "zh-TW": ["一", "二", "三", "四"],
}
SPELLINGS = {
    "fr": ("French", "fr-FR"),
    "ur": ("urd", "ur_PK"),
    "el": ("el", "Greek"),
    "zh-TW": ("zh_TW", "zh-TW"),
}


def write_corpus(folder: Path, *codes: str) -> list[dict[str, Any]]:
    rows = []
    for code in codes:
        for i in range(16):
            name = f"{code}-{i:02d}"
            write_tone(folder / f"{name}.wav", 0.5 + 0.02 * i, pitch=200 + 15 * i)
            text = f"{WORDS[code][i % 4]}, {WORDS[code][i // 4]}!"
            rows.append(
                {"id": name, "language": SPELLINGS[code][i % 2], "text": text, "audio": f"{name}.wav"}
            )
    write_manifest(folder, rows)
    return rows


@pytest.mark.parametrize(
    ("code", "texts"),
    [("fr", {"l'un deux"}), ("ur", {"ایک دو"}), ("el", {"ένα τέλος", "δύο ένα"}), ("zh-TW", {"一 二"})],
)
def test_from_corpus_to_score(tmp_path: Path, code: str, texts: set[str]) -> None:
    write_corpus(tmp_path / "c", code)
    experiment = Experiment(name="test", languages=(code,))
    experiment.tokenizer.vocab_size = 30
    prepare(experiment, tmp_path / "c", tmp_path / "data")
    rows = [
        row
        for part in ("train", "dev", "test")
        for row in Table.open(part_path(tmp_path / "data", part)).read("language", "text")
    ]
    assert {language for language, _ in rows} == {code} and texts <= {text for _, text in rows}
    assert "wrong_script" not in (tmp_path / "data/flagged.jsonl").read_text()
    tokenizer(experiment, tmp_path / "data", tmp_path / "run")
    made = load_tokenizer(tmp_path / "run/tokenizer.model")
    assert all(made.decode(made.encode(text)) == text for _, text in rows)
    raw = json.loads((tmp_path / "c/manifest.jsonl").read_text().splitlines()[0])["text"]
    report = make_report(
        [
            Utterance(
                id="a",
                language=code,
                ref=normal_form(raw, code),
                hyp=normal_form(raw.upper(), code),
                seconds=1.0,
            )
        ]
    )
    assert report.pooled.words.rate == 0.0


def test_text_in_another_script_is_flagged(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", "el")
    rows[3]["text"], rows[5]["text"] = "hello there", "ένα hello δύο τρία"
    write_manifest(tmp_path / "c", rows)
    examined = examine(tmp_path / "c", languages=["el"], cfg=PrepareConfig())
    flags = {(flag.id, flag.reason) for flag in examined.flags() if flag.reason.endswith("_script")}
    assert flags == {("el-03", "wrong_script"), ("el-05", "mixed_script")}
    page = examined.page()
    assert page.summary["languages"]["el"]["foreign_script"] == 1


def test_dropped_languages_are_reported(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", "fr", "el")
    with pytest.raises(
        MayaError, match="has no utterance in hi, bn, .*, only in el, fr; set languages=el,fr"
    ):
        examine(tmp_path / "c", languages=Experiment(name="x").languages, cfg=PrepareConfig())
    examined = examine(tmp_path / "c", languages=["Greek"], cfg=PrepareConfig())
    assert {entry.language for entry, _ in examined.kept()} == {"el"}
    assert any("16 in fr (languages=el,fr takes them too)" in note for note in examined.notes)


def test_validate_without_an_experiment_takes_all_languages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "c", "fr", "el")
    assert main(["validate", "--corpus", str(tmp_path / "c")]) == 0
    assert "32 utterances" in capsys.readouterr().out
    assert main(["validate", "--corpus", str(tmp_path / "c"), "--set", "languages=el"]) == 0
    out = capsys.readouterr().out
    assert "16 utterances" in out and "left out because their language was not asked for: 16 in fr" in out


def test_languages_of_an_experiment() -> None:
    experiment = load_experiment("egs.indic12.mini", ["languages=fr-FR,el,fr"])
    assert experiment.languages == ("fr", "el")
    with pytest.raises(MayaError, match="languages must be the code or the name of a language.*not 'xx'"):
        load_experiment("egs.indic12.mini", ["languages=xx"])


def test_default_language_may_be_a_name(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.5)
    (tmp_path / "a.txt").write_text("oui")
    examined = examine(tmp_path, languages=["fr"], cfg=PrepareConfig(language="French"))
    assert [entry.language for entry, _ in examined.kept()] == ["fr"]
    with pytest.raises(MayaError, match="unknown language 'Frensh'.*did you mean fr"):
        examine(tmp_path, languages=["fr"], cfg=PrepareConfig(language="Frensh"))


def test_evaluation_reads_tables_of_any_language(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('path\tsentence\tlocale\na.wav\t"oui\tfr-CA\n')
    (row,) = read_rows(tmp_path / "m.tsv", None)
    assert (row.language, row.text) == ("fr", '"oui')


def test_texts_without_a_language_are_not_normalized() -> None:
    assert normal_form("Hello, World", "") == normal_form("Hello, World", "xx") == "Hello, World"
    assert normal_form("L'Été!", "fr") == "l'été" and normal_form("it&#39;s", "en") == "it's"
