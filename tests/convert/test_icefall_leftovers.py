"""icefall's TorchScript files, byte-level BPE, and lists of characters."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
import torch
from torch import Tensor, nn

from maya.convert import import_icefall, to_icefall
from maya.convert.icefall.tokens import read_tokenizer
from maya.convert.icefall.torchscript import read_torchscript
from maya.errors import MayaError
from maya.text.byte_bpe import STAND_INS, ByteBPETokenizer, byte_bpe_from_bytes, is_byte_bpe, read, spelt
from maya.text.load import tokenizer_from_bytes
from tests.convert import icefall_files as files


class Part(nn.Module):
    """A module with these parameters below it, by their dotted names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.chunk_size = 16  # as the wrapper of a streaming encoder has
        for first in dict.fromkeys(name.split(".")[0] for name in tensors):
            below = {n.partition(".")[2]: x for n, x in tensors.items() if n.split(".")[0] == first}
            if "" in below:
                setattr(self, first, nn.Parameter(below[""]))
            else:
                setattr(self, first, Part(below))

    def forward(self, x: Tensor) -> Tensor:
        return x


def scripted(path: Path, weights: dict[str, Tensor]) -> Path:
    """A file as icefall's export writes it: the encoder with its front in a wrapper."""
    torch.jit.script(Part(weights)).save(str(path))  # type: ignore[no-untyped-call]
    return path


def wrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    fronts = ("encoder.", "encoder_embed.")
    return {f"encoder.{n}" if n.startswith(fronts) else n: x for n, x in weights.items()}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_has_the_same_tensors(tmp_path: Path) -> None:
    weights = files.state(files.model(ctc_weight=0.2))
    torch.save({"model": weights}, tmp_path / "pretrained.pt")
    tokens = files.tokens(tmp_path / "tokens.txt")
    plain = import_icefall(tmp_path / "pretrained.pt", tokens)
    doubled = wrapped(weights) | {n: x for n, x in weights.items() if n.startswith("encoder_embed.")}
    for name, state in (("jit_script.pt", wrapped(weights)), ("cpu_jit.pt", doubled)):
        made = import_icefall(scripted(tmp_path / name, state), tokens)
        assert made.checkpoint.model_config == plain.checkpoint.model_config
        for key, tensor in plain.checkpoint.weights.items():
            assert torch.equal(made.checkpoint.weights[key], tensor), key


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_scripted_files_are_refused(tmp_path: Path) -> None:
    weights = files.state(files.model())
    tokens = files.tokens(tmp_path / "tokens.txt")
    name = next(n for n in weights if n.startswith("encoder_embed."))
    different = wrapped(weights) | {name: weights[name] + 1}
    with pytest.raises(MayaError, match="two different tensors encoder_embed"):
        import_icefall(scripted(tmp_path / "a.pt", different), tokens)
    with pytest.raises(MayaError, match="no modules of icefall's Zipformer"):
        read_torchscript(scripted(tmp_path / "b.pt", {"fc.weight": torch.ones(2)}))


class Shell:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("content", [pickle.dumps(Shell("touch {}")), pickle.dumps(3), b"", b"\x80\x02c"])
def test_nothing_in_a_scripted_file_is_run(tmp_path: Path, content: bytes) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps(Shell(f"touch {mark}")) if b"touch" in content else content
    with zipfile.ZipFile(tmp_path / "jit_script.pt", "w") as archive:
        archive.writestr("jit_script/data.pkl", content)
        archive.writestr("jit_script/constants.pkl", pickle.dumps(()))
    with pytest.raises(MayaError, match="jit_script.pt") as caught:
        import_icefall(tmp_path / "jit_script.pt", files.tokens(tmp_path / "tokens.txt"))
    assert not mark.exists() and "\n" not in str(caught.value)


CHARACTERS = "<blk>\t0\n<sos/eos>\t1\n<unk>\t2\n你\t3\n好\t4\nA\t5\n"


def test_lists_of_characters_gain_no_unknown_piece(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text(CHARACTERS, encoding="utf-8")
    made = read_tokenizer(tmp_path / "tokens.txt")
    assert made.vocab_size == 6
    for text, ids in (("你好", [3, 4]), ("你 好\tA", [3, 4, 5]), (" 好 ", [4]), ("x你", [2, 3])):
        assert made.encode(text) == ids
    assert made.decode([3, 4, 5]) == "你好A"


def test_lists_with_the_special_pieces_last_and_ids_left_out(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text(
        "<blk>\t0\n▁a 1\nb\t2\n<unk> 4\n<sos/eos> 5\n#0 6\n", encoding="utf-8"
    )
    made = read_tokenizer(tmp_path / "tokens.txt")
    assert made.pieces(range(6)) == ["<blk>", "▁a", "b", "<unused-3>", "<unk>", "<sos/eos>"]
    assert made.encode("ab") == [1, 2] and made.decode([1, 2, 1]) == "ab a"


def test_a_line_with_an_id_alone_is_the_space(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<unk> 1\na 2\n  3\nb 4\n", encoding="utf-8")
    made = read_tokenizer(tmp_path / "tokens.txt")
    assert made.encode("ab a") == [2, 4, 3, 2] and made.decode([2, 4, 3, 2]) == "ab a"


def test_stand_ins_cover_all_bytes_once() -> None:
    assert sorted(STAND_INS) == list(range(256)) and len(set(STAND_INS.values())) == 256
    assert all(STAND_INS[ord(char)] == char for char in map(chr, range(32, 127)))
    assert (STAND_INS[0], STAND_INS[127], STAND_INS[145], STAND_INS[156]) == ("Ā", "Ġ", "Ĵ", "Ł")
    assert (STAND_INS[164], STAND_INS[216], STAND_INS[217], STAND_INS[255]) == ("Ŋ", "ž", "ƀ", "Ʀ")


def bbpe(path: Path) -> Path:
    made = io.BytesIO()
    lines = [spelt(text) for text in ("hello 你好 世界", "नमस्ते hello", "こんにちは 世界")] * 20
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=80, model_type="bpe", minloglevel=2,
        user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2, bos_id=-1, eos_id=-1, hard_vocab_limit=False,
        normalization_rule_name="identity",
    )  # fmt: skip
    path.write_bytes(made.getvalue())
    return path


def test_byte_level_bpe(tmp_path: Path) -> None:
    made = read_tokenizer(bbpe(tmp_path / "bbpe.model"))
    assert isinstance(made, ByteBPETokenizer)
    for text in ("HELLO", "你 好 HELLO", "नमस्ते HELLO", "こ ん"):
        assert made.decode(made.encode(text)) == text
    assert made.decode(made.encode("hello 你好")) == "HELLO 你 好"
    assert made.encode_batch(["hello", "你好"]) == [made.encode("hello"), made.encode("你好")]
    assert tokenizer_from_bytes(made.model_bytes).encode("世界") == made.encode("世界")
    # The name of the file does not matter: the pieces tell, also in a tokens.txt.
    assert isinstance(read_tokenizer(bbpe(tmp_path / "bpe.model")), ByteBPETokenizer)
    pieces = made.pieces(range(made.vocab_size))
    table = "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces))
    (tmp_path / "tokens.txt").write_text(table, encoding="utf-8")
    listed = read_tokenizer(tmp_path / "tokens.txt")
    assert isinstance(listed, ByteBPETokenizer) and listed.decode(made.encode("世界")) == "世 界"
    assert not is_byte_bpe(["<blk>", "▁the", "é"]) and not is_byte_bpe(["<blk>", "你"])
    with pytest.raises(MayaError, match="not a byte-level BPE"):
        byte_bpe_from_bytes(b"other")


def test_of_broken_bytes_the_most_characters_are_kept() -> None:
    whole = "".join(STAND_INS[byte] for byte in "a你b".encode())
    assert read(whole) == "a你b"
    cut = "".join(STAND_INS[byte] for byte in "你".encode()[:2] + "好c".encode() + "界".encode()[1:])
    assert read(cut) == "好c"
    assert read("\u2047" + whole) == "a你b"


def test_a_model_with_byte_level_bpe_goes_out_again(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(bbpe(tmp_path / "bbpe.model"))
    model = files.model(ctc_weight=0.2, vocab_size=tokenizer.vocab_size)
    torch.save({"model": files.state(model)}, tmp_path / "pretrained.pt")
    made = import_icefall(tmp_path / "pretrained.pt", tmp_path / "bbpe.model").recognizer("cpu")
    audio = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    (hyp,) = made.transcribe(audio, method="ctc")
    assert hyp.text == tokenizer.decode(hyp.tokens)
    assert "".join(word.text for word in hyp.words) == hyp.text.replace(" ", "")
    to_icefall(made, tmp_path / "out")
    assert (tmp_path / "out" / "bbpe.model").read_bytes() == (tmp_path / "bbpe.model").read_bytes()
