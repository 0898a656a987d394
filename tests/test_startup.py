"""`import maya`, `maya --help` and transcribing one file load no package that they do not need."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests.convert.archives import recognizer
from tests.test_layering import OPTIONAL, imports, module_name, source_files

# The import of each takes from 0.1 s to some seconds.
HEAVY = (
    *("lhotse", "accelerate", "tensorboard", "torch.utils.tensorboard", "pyarrow", "pandas", "sympy"),
    *("torch._dynamo", "torch._inductor", "triton", "transformers", "peft", "torchaudio", "yaml", "av"),
    *("matplotlib", "onnx", "kaldialign", "scipy"),
)


def loaded_after(program: str, *arguments: str) -> set[str]:
    """The names in sys.modules at the end of a program."""
    report = "import sys\nprint('\\n' + ' '.join(sys.modules))"
    command = [sys.executable, "-c", f"{program}\n{report}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint, best.pt, and 2 s of noise, a.wav."""
    top = tmp_path_factory.mktemp("startup")
    small = recognizer()
    checkpoint = Checkpoint(
        model_config=small.model.cfg,
        tokenizer=small.tokenizer,
        weights=small.model.state_dict(),
        step=1,
        notes={},
    )
    save_checkpoint(top / "best.pt", checkpoint)
    samples = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(top / "a.wav", samples.astype(np.float32), 16_000)
    return top


def test_importing_maya_loads_nothing_heavy() -> None:
    loaded = loaded_after("import maya")
    assert not loaded & {*HEAVY, *OPTIONAL, "torch", "numpy"}


def test_training_loads_nothing_of_fsdp() -> None:
    loaded = loaded_after("import maya.recipes.train")
    assert not loaded & {"torch.distributed.fsdp", "torch.distributed.tensor", "sympy", "torch._dynamo"}


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import contextlib, io\nfrom maya.recipes.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])"
    )
    assert not loaded_after(program) & {*HEAVY, "torch", "numpy"}


def test_transcribe_loads_only_what_it_needs(recording: Path) -> None:
    program = (
        "import sys\nfrom maya.recipes.cli import main\n"
        "assert main(['transcribe', sys.argv[1], sys.argv[2]]) == 0"
    )
    loaded = loaded_after(program, str(recording), str(recording / "a.wav"))
    assert {"torch", "soundfile"} <= loaded
    assert not loaded & set(HEAVY)


def test_a_user_program_loads_only_what_a_model_needs(recording: Path) -> None:
    program = (
        "import sys, numpy, maya\nmodel = maya.load(sys.argv[1], 'cpu')\n"
        "model.transcribe([numpy.zeros(16000, numpy.float32)])"
    )
    assert not loaded_after(program, str(recording)) & set(HEAVY)


def test_modules_that_import_lhotse_register_the_audio_backend(repo: Path) -> None:
    """lhotse alone would start ffmpeg (see lhotse_audio). So a module that imports lhotse must import
    lhotse_audio too, directly or through other modules."""
    graph: dict[str, set[str]] = {}
    for path in source_files(repo):
        name = module_name(path, repo)
        graph[name] = {module for module, _, _ in imports(path, repo)}

    def reaches(name: str, seen: set[str]) -> bool:
        if name == "maya.audio.lhotse_audio":
            return True
        seen.add(name)
        return any(reaches(m, seen) for m in graph.get(name, set()) - seen)

    users = {name for name, names in graph.items() if any(m.split(".")[0] == "lhotse" for m in names)}
    assert "maya.data.table.cuts" in users
    unregistered = {name for name in users if name.split(".")[0] != "egs" and not reaches(name, set())}
    assert unregistered == set()


def test_garbage_collection_is_enabled_after_import() -> None:
    program = "import gc\nfrom maya.recipes.start import import_torch\nimport_torch()\nassert gc.isenabled()"
    assert "torch" in loaded_after(program)
