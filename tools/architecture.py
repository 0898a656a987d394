"""The list of files in docs/architecture.md, in the order in which data pass through them.

    python -m tools.architecture           write the list again
    python -m tools.architecture --check   exit status 1 if the page is out of date

The text of a line is the first sentence of the file's docstring, so that code and page cannot disagree.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PAGE = TOP / "docs" / "architecture.md"
BEGIN, END = "<!-- files: python -m tools.architecture writes this list -->", "<!-- end of files -->"
FOLDERS = (
    *("maya", "maya/text", "maya/storage", "maya/audio", "maya/audio/containers", "maya/audio/vad"),
    *("maya/data/corpus", "maya/data/measure", "maya/data/table", "maya/data/report", "maya/data/prepare"),
    *("maya/data/plan", "maya/data/loading", "maya/features"),
    *("maya/encoders", "maya/encoders/conformer", "maya/encoders/zipformer", "maya/encoders/lact"),
    *("maya/encoders/hugging_face", "maya/encoders/whisper", "maya/encoders/ecapa"),
    *("maya/encoders/speech_tokenizer", "maya/encoders/beats", "maya/encoders/emotion2vec"),
    "maya/encoders/separation",
    *("maya/heads", "maya/heads/transducer", "maya/losses", "maya/models", "maya/models/sizing"),
    *("maya/decode", "maya/decode/transducer", "maya/decode/ctc", "maya/decode/attention"),
    *("maya/decode/long", "maya/decode/lm", "maya/decode/beams", "maya/decode/label_looping"),
    *("maya/decode/adapt", "maya/decode/whisper", "maya/align", "maya/align/formats", "maya/align/speakers"),
    *("maya/score", "maya/score/files", "maya/score/measures", "maya/score/meetings", "maya/score/page"),
    *("maya/train", "maya/train/checkpoints", "maya/train/optimizers", "maya/train/memory"),
    *("maya/serve", "maya/serve/protocols", "maya/serve/page", "maya/serve/speech"),
    *("maya/serve/speech/adapters", "maya/serve/translation", "maya/convert", "maya/convert/nemo"),
    *("maya/convert/icefall", "maya/convert/hugging_face", "maya/convert/whisper", "maya/convert/onnx"),
    *("recipes", "recipes/evaluation"),
)


def summary(path: Path) -> str:
    """The first sentence of a file's docstring, without its last full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?= |$)", paragraph)[0].strip().replace("|", "\\|")


def file_list(top: Path) -> str:
    """The list as Markdown: a table for each folder."""
    parts = []
    for folder in FOLDERS:
        files = sorted(p for p in (top / folder).glob("*.py") if p.name != "__init__.py")
        if not files:
            continue
        init = top / folder / "__init__.py"
        parts += [
            "",
            f"### {folder}/",
            "",
            summary(init) + "." if init.is_file() and folder != "maya" else "",
        ]
        parts += ["", "| file | content |", "|---|---|"]
        parts += [f"| [{p.name}](../{folder}/{p.name}) | {summary(p)} |" for p in files]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)) + "\n"


def updated(page: str, top: Path) -> str:
    """The page with the list written again."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + file_list(top) + "\n" + END + rest.split(END)[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Write the list of files in docs/architecture.md again."
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if it is out of date"
    )
    check = parser.parse_args(argv).check
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page, TOP)
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        print("docs/architecture.md is out of date: run python -m tools.architecture")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
