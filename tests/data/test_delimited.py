"""Delimited tables beside audio: every utterance is read, or an error names its line."""

from pathlib import Path

import pytest

from maya.data.corpus.delimited import DelimitedFile
from maya.data.corpus.folder import describing_files, read_corpus
from maya.data.corpus.manifest import ReadOptions, Row
from maya.data.corpus.metadata import read_metadata_csv
from maya.errors import MayaError
from tests.data.making import rows_of, write_tone


def table(folder: Path, text: str | bytes, name: str = "metadata.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def audio(folder: Path, *names: str) -> None:
    for name in names:
        write_tone(folder / name, 0.2, format="WAV")


def texts(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.id, row.text) for row in rows]


STRAY = [
    ("plain", "plain"),
    ('"An opening quote that nobody closed', '"An opening quote that nobody closed'),
    ('one in the " middle', 'one in the " middle'),
    ('5" pipe and 6"', '5" pipe and 6"'),
    ('closed nowhere"', 'closed nowhere"'),
    ('"quoted whole"', "quoted whole"),
    ('"doubled ""inside"" it"', 'doubled "inside" it'),
    ('"Yes," he said, "no"', '"Yes," he said, "no"'),
    ('"', '"'),
    ('""', ""),
    ('"Another opening quote', '"Another opening quote'),
]


@pytest.mark.parametrize("order", [1, -1])
def test_stray_quotes_between_tabs(tmp_path: Path, order: int) -> None:
    """An unclosed quote never hides another utterance, whatever line follows."""
    written = STRAY[::order]
    lines = [f"c{i}.wav\t{cell}" for i, (cell, _) in enumerate(written)]
    rows = read_metadata_csv(
        table(tmp_path, "path\tsentence\n" + "\n".join(lines)), ReadOptions(language="en")
    )
    assert texts(rows) == [(f"c{i}", text) for i, (_, text) in enumerate(written)]
    assert [row.where.rpartition(":")[2] for row in rows] == [str(i + 2) for i in range(len(written))]


@pytest.mark.parametrize("separator", [",", ";"])
def test_stray_quotes_between_commas(tmp_path: Path, separator: str) -> None:
    cells = {
        '"An opening quote that nobody closed': '"An opening quote that nobody closed',
        'he said "no"': 'he said "no"',
        f'"yes{separator} no"': f"yes{separator} no",
        f'"yes{separator} no" he said': f"yes{separator} no he said",
        '"she ""said"" it"': 'she "said" it',
        '5" pipe': '5" pipe',
        '"Another': '"Another',
    }
    lines = [f"file_name{separator}text", *(f"a{i}.wav{separator}{cell}" for i, cell in enumerate(cells))]
    rows = read_metadata_csv(table(tmp_path, "\r\n".join(lines) + "\r\n"), ReadOptions(language="en"))
    assert [row.text for row in rows] == list(cells.values())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path\tsentence", 'a.wav\t"one', 'two"', "b.wav\tthree"], r":2: a cell goes on to line 3; write"),
        (["path\tsentence", 'a.wav\t"one', "two", 'three"'], r":2: a cell goes on to line 4"),
        (["file_name,text", 'a.wav,"one', 'again, two"', "b.wav,x"], r":2: a cell goes on to line 3"),
        (["file_name,text", 'a.wav,"one', "", 'two"'], r":2: a cell goes on to line 4"),
        (["file_name;text", 'a.wav;"one ""x""', 'two"', "b.wav;x"], r":2: a cell goes on to line 3"),
        (["file_name,text", "a.wav,one", "two, three, four"], r":3: 3 cells where the header has 2"),
        (["path\tsentence\tage", "a.wav\tone", "b.wav\ttwo\t\t"], r":2: 2 cells .* 3 \(and 1 more"),
        (["path\tsentence", "a.wav\tone\rtwo"], r":2: a carriage return lies inside the line"),
        (["path\tsentence\tSentence ", "a.wav\tone\ttwo"], r":1: two columns are called 'sentence'"),
        (["path,text,path", "a,b,c"], r":1: two columns are called 'path'"),
        (["path\tsentence", "a.wav\tone\0two"], r":2: the field 'text' holds a zero byte"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(MayaError, match=r"metadata\.csv" + message):
        read_metadata_csv(table(tmp_path, "\n".join(lines) + "\n"), ReadOptions(language="en"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path\tsentence\na.wav\tone\n".encode("utf-16"), "is UTF-16 text; convert"),
        ("path\tsentence\na.wav\tcafé\n".encode("latin-1"), ":2 is not UTF-8 text"),
        (b"", "is empty"),
        (b"\n\r\n  \n", "is empty"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(MayaError, match=message):
        read_metadata_csv(table(tmp_path, data), ReadOptions(language="en"))


def test_capitals_marks_and_line_ends_in_the_header(tmp_path: Path) -> None:
    text = '\ufeff\r\n"PATH"\tSentence \tCLIENT_ID\tLocale\t\r\n\r\na.wav\tone\u2028two\x0bx\ts1\ten-US\t\r\n'
    (row,) = read_metadata_csv(table(tmp_path, text), ReadOptions())
    assert (row.id, row.text, row.speaker, row.language) == ("a", "one\u2028two\x0bx", "s1", "en")


def test_tsv_and_tables_in_the_folders_of_splits(tmp_path: Path) -> None:
    table(tmp_path / "one", "path\tsentence\na.wav\tone\n", "metadata.tsv")
    assert texts(read_corpus(tmp_path / "one", "en")[0]) == [("a", "one")]
    for part in ("train", "validation"):
        table(tmp_path / "two" / part, "file_name,text\na.wav,one\n")
    rows, _ = read_corpus(tmp_path / "two", "en")
    assert [(row.id, row.audio, row.split) for row in rows] == [
        ("train/a", "train/a.wav", "train"),
        ("validation/a", "validation/a.wav", "dev"),
    ]
    assert len(describing_files(tmp_path / "two")) == 2


def test_only_one_description_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    table(tmp_path, "file_name,text\na.wav,one\n")
    table(tmp_path, "a a.wav\n", "wav.scp")
    notes: list[str] = []
    assert len(read_corpus(tmp_path, "en", notes=notes)[0]) == 1
    assert notes == ["read metadata.csv; not read: wav.scp"]


LJ = 'w-1|He said "7", then, then|he said seven then then\nw-2|"Rain," by noon|\nw.3|"Sun|the sun\n'


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
@pytest.mark.parametrize("folder", ["wavs", "wav", "."])
def test_ljspeech(tmp_path: Path, folder: str, suffix: str) -> None:
    table(tmp_path, LJ)
    audio(tmp_path, *(f"{folder}/{name}{suffix}" for name in ("w-1", "w-2", "w.3", "unnamed")))
    notes: list[str] = []
    rows, _ = read_corpus(tmp_path, "en", notes=notes)
    (note,) = notes
    assert note.startswith("1 audio files are named by no line of metadata.csv, ") and "unnamed" in note
    assert texts(rows) == [
        ("w-1", "he said seven then then"),
        ("w-2", '"Rain," by noon'),
        ("w.3", "the sun"),
    ]
    assert [(tmp_path / row.audio).is_file() for row in rows] == [True] * 3


def test_ljspeech_of_two_columns_with_a_missing_file(tmp_path: Path) -> None:
    table(tmp_path, "a|one\nb|two\nc|three, four\n")
    audio(tmp_path, "wavs/b.wav", "wavs/c.wav")
    rows, _ = read_corpus(tmp_path, "en")
    assert [(row.id, row.text, row.audio) for row in rows] == [
        ("a", "one", "wavs/a.wav"),
        ("b", "two", "wavs/b.wav"),
        ("c", "three, four", "wavs/c.wav"),
    ]


def test_a_bad_line_of_ljspeech_is_named(tmp_path: Path) -> None:
    table(tmp_path, "a|one|one\nb|two\n")
    audio(tmp_path, "wavs/a.wav")
    with pytest.raises(MayaError, match=r":2: 2 cells where the header has 3"):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize(("text", "names"), [("a.wav,one\nb.wav,two\n", "ab"), ("x/a.wav\tone\n", "a")])
def test_files_and_texts_without_a_header(tmp_path: Path, text: str, names: str) -> None:
    table(tmp_path, text)
    audio(tmp_path, "a.wav", "wavs/b.wav")
    rows, _ = read_corpus(tmp_path, "en")
    assert [Path(row.id).name for row in rows] == list(names)


def test_a_header_names_the_text_column(tmp_path: Path) -> None:
    table(tmp_path, "ID|Transcription|Normalized_Text\na|It is 7|it is seven\n")
    audio(tmp_path, "clips/a.wav")
    (row,) = read_corpus(tmp_path, "en")[0]
    assert (row.audio, row.text) == ("clips/a.wav", "It is 7"), "the header names the text column"


def test_missing_audio_explains_the_form(tmp_path: Path) -> None:
    table(tmp_path, LJ)
    with pytest.raises(MayaError, match=r":1: no column holds the audio.*ID\|TEXT\|NORMALISED TEXT"):
        read_corpus(tmp_path, "en")


CV = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\tsegment\n"


def common_voice(folder: Path, **tables: str) -> None:
    for name, lines in tables.items():
        rows = [line.split("|") for line in lines.split()]
        text = "".join(
            f"{speaker}\t{clip}\tx\t{sentence}\t2\t{region}\t\n" for speaker, clip, sentence, region in rows
        )
        table(folder, CV + text, f"{name}.tsv")
    (folder / "clips").mkdir(exist_ok=True)


def test_common_voice(tmp_path: Path) -> None:
    common_voice(
        tmp_path,
        train='s1|a.mp3|"One|en s1|b.mp3|two|en',
        dev="s2|c.mp3|three|en",
        test="s3|d|four|en",
        validated="s1|a.mp3|One|en s9|z.mp3|one|en",
        other="s4|e.mp3|five|en",
        invalidated="",
    )
    notes: list[str] = []
    rows, dropped = read_corpus(tmp_path, notes=notes)
    assert not dropped
    assert [(r.id, r.audio, r.text, r.speaker, r.language, r.split) for r in rows] == [
        ("a", "clips/a.mp3", '"One', "s1", "en", "train"),
        ("b", "clips/b.mp3", "two", "s1", "en", "train"),
        ("c", "clips/c.mp3", "three", "s2", "en", "dev"),
        ("d", "clips/d.mp3", "four", "s3", "en", "test"),
    ]
    (note,) = notes
    assert "read train.tsv, dev.tsv, test.tsv; not read (lines): validated.tsv 2, other.tsv 1" in note
    assert "invalidated.tsv 0" in note and "a part of validated.tsv" in note
    assert len(describing_files(tmp_path)) == 3


def test_common_voice_of_several_languages_and_validated_alone(tmp_path: Path) -> None:
    common_voice(tmp_path / "hi", validated="s1|a.mp3|एक|hi s2|b.mp3|दो|hi")
    common_voice(tmp_path / "zh-TW", train="s1|a.mp3|一|zh-TW", dev="", test="")
    rows, _ = read_corpus(tmp_path)
    assert [(r.id, r.audio, r.language, r.split) for r in rows] == [
        ("hi/a", "hi/clips/a.mp3", "hi", None),
        ("hi/b", "hi/clips/b.mp3", "hi", None),
        ("zh-TW/a", "zh-TW/clips/a.mp3", "zh-TW", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client_id\tsentence\ns\tone\n", r"train\.tsv:1: the table has no column 'path'"),
        ("path\tsentence\tpath\na\tone\tb\n", r"train\.tsv:1: the table has several columns 'path'"),
        (CV + "s\ta.mp3\tx\tone\t2\n", r"train\.tsv:2: 5 cells where the header has 7"),
        (CV + 's\ta.mp3\tx\t"one\ntwo"\t2\ten\t\n', r"train\.tsv:2: a cell goes on to line 3"),
        (CV + "s\t\tx\tone\t2\ten\t\n", r"train\.tsv:2: the field 'id' is empty"),
        (CV + "s\ta.mp3\tx\tone\t2\txx\t\n", r"train\.tsv:2: unknown language 'xx'"),
    ],
)
def test_damaged_common_voice_is_named(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, text, "train.tsv")
    (tmp_path / "clips").mkdir()
    with pytest.raises(MayaError, match=message):
        read_corpus(tmp_path, "en")


def test_records_have_their_line_numbers_and_problems(tmp_path: Path) -> None:
    file = DelimitedFile(table(tmp_path, 'a,b\n\n1,2\n3\n"4,5\n6,7\n'))
    assert file.first(",") == ["a", "b"]
    records = list(file.records(",", 2, lambda cells: cells[0].isdigit()))
    assert [(record.number, list(record.cells)) for record in records] == [
        (3, ["1", "2"]),
        (4, []),
        (5, ['"4', "5"]),
        (6, ["6", "7"]),
    ]
    assert records[1].problem == "1 cells where the header has 2"


def test_common_voice_without_speakers(tmp_path: Path) -> None:
    table(tmp_path, "path\tsentence\na.mp3\tone\n", "train.tsv")
    (tmp_path / "clips").mkdir()
    (row,) = read_corpus(tmp_path, "en")[0]
    assert (row.id, row.audio, row.speaker, row.split) == ("a", "clips/a.mp3", None, "train")


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_table_of_each_part(tmp_path: Path, suffix: str, separator: str) -> None:
    for part in ("train", "valid", "test"):
        lines = [
            ["file_name", "text", "speaker"],
            [f"wav/{part}.wav", "one", "s"],
            [f"{part}2.wav", "two", ""],
        ]
        table(tmp_path, "\n".join(separator.join(line) for line in lines), f"{part}.{suffix}")
    table(tmp_path, "name,words\na,b\n", "dev.csv")
    audio(tmp_path, "audio/train2.wav", "valid2.wav")
    rows, _ = read_corpus(tmp_path, "en")
    assert [(row.id, row.audio, row.split) for row in rows] == [
        ("wav/train", "wav/train.wav", "train"),
        ("train2", "audio/train2.wav", "train"),
        ("wav/valid", "wav/valid.wav", "dev"),
        ("valid2", "valid2.wav", "dev"),
        ("wav/test", "wav/test.wav", "test"),
        ("test2", "test2.wav", "test"),
    ]
    assert len(describing_files(tmp_path)) == 3


def test_audio_beside_the_table_is_preferred(tmp_path: Path) -> None:
    table(tmp_path, "file_name,text\na.wav,one\nb.wav,two\nc.wav,three\n")
    audio(tmp_path, "a.wav", "wavs/a.wav", "wavs/b.wav")
    rows, _ = read_corpus(tmp_path, "en")
    assert [(row.id, row.audio) for row in rows] == [("a", "a.wav"), ("b", "wavs/b.wav"), ("c", "c.wav")]


def test_an_id_with_two_audio_files_is_refused(tmp_path: Path) -> None:
    write_tone(tmp_path / "wavs/a.wav", 0.2)
    write_tone(tmp_path / "clips/a.wav", 0.2)
    (tmp_path / "metadata.csv").write_text("id,text\na,one\n", encoding="utf-8")
    assert [row.audio for row in rows_of(tmp_path, "en")] == ["wavs/a.wav"], "a folder of its own decides"
    write_tone(tmp_path / "wavs/a.flac", 0.2)
    with pytest.raises(MayaError, match=r"metadata.csv:2: both wavs/a.flac and wavs/a.wav may be its audio"):
        rows_of(tmp_path, "en")
    (tmp_path / "metadata.csv").write_text("id,text\na.flac,one\n", encoding="utf-8")
    assert [row.audio for row in rows_of(tmp_path, "en")] == ["wavs/a.flac"]
