"""What the compiled libraries require, how a backend is chosen, and an installation without a compiler."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch
from helpers import fresh_python

import lckernels
from lckernels import info
from lckernels.backends import registry
from lckernels.backends.shared.compiled_library import load_library

PACKAGE = Path(lckernels.__file__).parent


@pytest.fixture(params=["_C.so", "_C_cuda.so"])
def library(request) -> Path:
    """A compiled library of torch ops."""
    path = PACKAGE / request.param
    if not path.exists():
        pytest.skip(f"{request.param} was not built")
    return path


def symbols(library: Path, *flags: str) -> list[str]:
    """Names of the dynamic symbols of a library."""
    listing = subprocess.run(["nm", "-D", *flags, str(library)], capture_output=True, text=True, check=True)
    return [line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()]


def test_ops_library_is_free_of_python(library):
    assert [name for name in symbols(library, "--undefined-only") if name.lstrip("_").startswith("Py")] == []


def test_ops_library_needs_only_the_stable_shim(library):
    """It uses no C++ symbol of torch, c10 or at, only libtorch's C shim of 2.11."""
    undefined = symbols(library, "--undefined-only")
    mangled = [name for name in undefined if name.startswith("_Z")]
    assert [name for name in mangled if any(space in name for space in ("3c10", "2at", "5torch"))] == []
    shim = {name for name in undefined if name.startswith(("aoti_torch", "torch_"))}
    assert shim, "the library uses nothing of libtorch: the test reads the wrong list"
    newer = {
        "torch_library_def_with_tags",  # 2.12
        "torch_stream_native_handle",  # 2.13
        "torch_library_set_python_module",  # 2.13
    }
    assert not shim & newer


def test_cuda_library_uses_only_the_stream_of_torch(library):
    """It uses nothing else of libtorch_cuda, and contains CUDA's runtime."""
    undefined = symbols(library, "--undefined-only")
    asked = {name for name in undefined if "cuda" in name.lower()} - {"aoti_torch_device_type_cuda"}
    assert asked == ({"aoti_torch_get_current_cuda_stream"} if library.name == "_C_cuda.so" else set())


def test_ops_library_has_no_path_into_the_build(library):
    header = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "libtorch" in header
    assert "RPATH" not in header and "RUNPATH" not in header


def python(code: str, folder: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess:
    return fresh_python.run(code, folder, **environment)


def test_import_is_light():
    extras = "('transformers', 'typer', 'matplotlib', 'sentencex')"
    code = f"import sys, lckernels; print([name for name in {extras} if name in sys.modules])"
    assert python(code).stdout.strip() == "[]"


MERGE = (
    "import torch, lckernels\n"
    "rows = [[0, 0, 0, 4], [1, 0, 2, 4]]\n"
    "plan = lckernels.Plan.from_segments(rows, num_chunks=2, chunk_len=4, total_len=6)\n"
    "print(lckernels.overlap_merge(torch.ones(2, 4, 3), plan{}).sum().item())\n"
)


def test_pure_python_install(tmp_path):
    """Without the compiled libraries the eager backend runs, and the errors name what is missing."""
    copy = tmp_path / "lckernels"
    for source in PACKAGE.rglob("*.py"):
        target = copy / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    # The finder of an editable install would still find the compiled parts.
    alone = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    done = python(alone + MERGE.format("") + "print(lckernels.__file__)", tmp_path)
    assert done.stdout.split() == ["18.0", str(copy / "__init__.py")], done.stderr
    assert "lckernels: no kernel for overlap_merge on cpu in torch.float32" in done.stderr
    assert "cpu: lckernels/_C.so was not built" in done.stderr
    refused = python(alone + MERGE.format(", backend='cpu'"), tmp_path)
    assert ": lckernels/_C.so was not built (installing lckernels with a C++ compiler" in refused.stderr
    refused = python(alone + "import lckernels; lckernels.plan_chunks([50], 16, 4)", tmp_path)
    assert "needs lckernels' compiled extension, which needs a C++ compiler" in refused.stderr


def test_sdist_holds_what_a_build_needs(tmp_path):
    root = PACKAGE.parent
    folder = str(tmp_path)
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(root)) for path in (root / "csrc").rglob("*") if path.is_file()}
    assert sources | {"CMakeLists.txt", "python/bindings.cpp", "setup.py", "LICENSE"} <= packed


@pytest.mark.parametrize(("missing", "tag"), [(True, "py3-none-any"), (False, "cp3")])
def test_a_wheel_without_extensions_is_for_every_platform(tmp_path, missing, tag):
    """The name of the wheel; no file is compiled."""
    code = (
        "import sys, runpy, setuptools.command.build_ext as command\n"
        "command.build_ext.build_extensions = lambda self: None\n"
        "sys.argv = ['setup.py', '-q', 'egg_info', '-e', FOLDER, 'build', '-b', FOLDER + '/build',\n"
        "            'bdist_wheel', '-b', FOLDER + '/wheel', '-d', FOLDER]\n"
        "runpy.run_path('setup.py', run_name='__main__')\n"
    ).replace("FOLDER", repr(str(tmp_path)))
    environment = {**os.environ, "LCK_CUDA": "0", "CXX": "no-such-compiler" if missing else ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [path.name for path in tmp_path.glob("*.whl")]
    assert len(names) == 1 and f"-{tag}" in names[0]
    assert ("no C++ compiler was found" in done.stderr) == missing


@pytest.mark.parametrize("isa", ("generic", "avx2", "avx512", "avx512_bf16"))
def test_environment_forces_an_instruction_set(isa):
    from lckernels import _host

    order = ("generic", "avx2", "avx512", "avx512_bf16")
    code = MERGE.format("") + "print(torch.ops.lckernels_cpu.isa())"
    done = python(code, LCKERNELS=f"isa={isa}")
    if order.index(isa) > order.index(_host.detected_isa()):
        assert done.stdout.split()[0] == "18.0", "eager runs"
    else:
        assert done.stdout.split() == ["18.0", isa], done.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    (
        ("backend=cpu,isa=sse", "LCKERNELS: got isa='sse'; allowed are generic, avx2, avx512, avx512_bf16"),
        ("speed=11", "LCKERNELS: got the setting 'speed'; allowed are backend, isa"),
        ("backend=gpu", "LCKERNELS: got backend='gpu'; allowed are cpu, triton, cuda, eager"),
        (
            "backend=eager isa=avx2",
            "LCKERNELS: got backend='eager isa=avx2'; allowed are cpu, triton, cuda, eager; "
            "a comma separates settings",
        ),
    ),
)
def test_environment_errors(value, message):
    assert message in python(MERGE.format(""), LCKERNELS=value).stderr
    command = python("from lckernels.cli.main import main; main()", LCKERNELS=value)
    assert command.returncode == 2 and "Usage" in command.stdout + command.stderr, "help needs no settings"
    code = "import sys; sys.argv[1:] = ['info']; from lckernels.cli.main import main; main()"
    refused = python(code, LCKERNELS=value)
    assert refused.returncode == 2 and refused.stderr.strip() == f"lckernels: {message}", refused.stderr


def test_environment_chooses_the_backend():
    code = "from lckernels.backends.registry import Problem, choose; import torch; "
    code += "print(choose(Problem('overlap_merge', 'cpu', torch.float32, ())).name)"
    assert python(code, LCKERNELS="backend=eager").stdout.strip() == "eager"
    assert python(code, LCKERNELS=" backend = eager , isa = generic ,").stdout.strip() == "eager"
    assert python(code, LCKERNELS=" ").stdout.strip() == "cpu"
    assert python(code, LCKERNELS="").stdout.strip() == "cpu"


def test_the_error_names_the_inputs_and_every_reason():
    problem = registry.Problem("unknown_op", "meta", torch.float32, ((1, 4, 2, 8),))
    with pytest.raises(lckernels.BackendError) as refused:
        registry.choose(problem)
    message = str(refused.value)
    assert "no backend can run unknown_op on meta, torch.float32, shapes (1, 4, 2, 8)" in message
    assert "cpu: it supports tensors on the CPU, not on meta" in message
    assert "eager: it has no kernel for unknown_op" in message


def test_the_error_of_a_named_backend_names_those_that_can_run():
    said = r"backend: got 'cuda', which cannot run windowed_attention on cpu, .*shapes \(1, 4, 2, 8\): "
    problem = registry.Problem("windowed_attention", "cpu", torch.float32, ((1, 4, 2, 8),))
    with pytest.raises(lckernels.BackendError, match=f"{said}.*; expected (.* or )?eager$"):
        registry.choose(problem, "cuda")


def test_every_op_is_supported_on_every_device():
    """eager is the last backend of the table and supports any device."""
    assert registry.BACKENDS[-1] == "eager"
    problem = registry.Problem("overlap_merge", "meta", torch.float32, ())
    assert registry.choose(problem).name == "eager"
    assert registry.backends()["cpu"].reasons(problem) == ["it supports tensors on the CPU, not on meta"]


def test_wheel_tag_is_this_python():
    assert (PACKAGE / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}").exists()


TOO_HIGH = "isa: got 'avx512_bf16'; this processor goes up to avx2"


def test_an_instruction_set_above_the_processor_is_a_reason(monkeypatch):
    from lckernels.backends.cpu import library

    class Less:
        """The private ops on a processor with AVX2."""

        window_forward = None

        @staticmethod
        def set_isa(name):
            raise RuntimeError(f"{TOO_HIGH}\nfrom set_isa, a file and a line")

    monkeypatch.setattr(torch.ops, "lckernels_cpu", Less)
    monkeypatch.setattr(library, "settings", lambda: {"isa": "avx512_bf16"})
    reason = library._load()
    assert reason == f"LCKERNELS: {TOO_HIGH}"
    assert_eager_serves(monkeypatch, reason)


def assert_eager_serves(monkeypatch, reason: str) -> None:
    """With the reason against `cpu`, an automatic call and `lckernels info` work and state it."""
    from lckernels.backends.cpu import library

    monkeypatch.setattr(library, "UNAVAILABLE", reason)
    problem = registry.Problem("overlap_merge", "cpu", torch.float32, ())
    assert registry.availability()["cpu"] == reason
    assert registry.choose(problem).name == "eager"
    assert info.built()["_C (CPU ops)"] == f"built; {reason}"
    rows = [row for row in info.served() if row[:2] == ("overlap_merge", "cpu")]
    assert rows and all(row[3] == "eager" and f"cpu: {reason}" in row[4] for row in rows)
    assert "instruction set in use" not in info.machine()


def other_machine(library: Path) -> bytes:
    """The library as for aarch64, or for x86-64 where this is aarch64."""
    content = bytearray(library.read_bytes())
    content[18] = 62 if content[18] == 183 else 183
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: b"no library", "invalid ELF header|file too short"),
        (lambda path: b"", "file too short"),
        (lambda path: path.read_bytes()[:40], "file too short|invalid ELF header"),
        (lambda path: path.read_bytes()[:100_000], "^_C.so does not load: the file is incomplete$"),
        (lambda path: path.read_bytes()[:-1], "^_C.so does not load: the file is incomplete$"),
        (other_machine, "cannot open shared object file"),
    ],
    ids=["text", "empty", "header", "start", "one byte less", "another machine"],
)
def test_a_library_that_does_not_load_is_a_reason(tmp_path, monkeypatch, content, message):
    """A truncated file is not loaded: the process would end with SIGBUS."""
    from lckernels.backends.cpu import library

    broken = tmp_path / "_C.so"
    broken.write_bytes(content(PACKAGE / "_C.so"))
    monkeypatch.setattr(library, "_LIBRARY", broken)
    reason = library._load()
    assert reason.startswith("_C.so does not load: ") and re.search(message, reason), reason
    assert_eager_serves(monkeypatch, reason)


def test_a_library_that_cannot_be_read_is_a_reason(tmp_path):
    (tmp_path / "_C.so").mkdir()
    assert load_library(tmp_path / "_C.so", "lckernels_cpu", "op").startswith("_C.so does not load: ")


def test_a_library_of_an_earlier_version_is_a_reason():
    from lckernels.backends.cpu import library

    if library.UNAVAILABLE:
        pytest.skip(library.UNAVAILABLE)
    reason = load_library(library._LIBRARY, "lckernels_cpu", "an_op_of_a_later_version")
    assert (
        reason
        == "_C.so is of another version, without the op an_op_of_a_later_version; install lckernels again"
    )
    assert load_library(library._LIBRARY, "lckernels_cpu", "window_forward") == ""


def test_a_host_module_that_does_not_load_is_named(tmp_path):
    """lckernels info names the module's fault; the planner does too."""
    code = (
        "import sys, importlib.machinery\n"
        "import lckernels, lckernels.info\n"
        "class Broken:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'lckernels._host':\n"
        "            return importlib.machinery.ModuleSpec(name, self)\n"
        "    def create_module(self, spec): raise ImportError('_host.so: wrong ELF class')\n"
        "    def exec_module(self, module): pass\n"
        "sys.meta_path.insert(0, Broken())\n"
        "print(lckernels.info.built()['_host (planner, roofline)'])\n"
        "lckernels.info.machine()\n"
        "lckernels.plan_chunks([50], 16, 4)\n"
    )
    done = python(code)
    assert done.stdout.splitlines() == ["built; _host.so: wrong ELF class"], done.stderr
    assert "wrong ELF class" in done.stderr and "planning needs lckernels' compiled extension" in done.stderr
