"""Builds the compiled libraries with CMake and ninja; without a C++ compiler the package is pure Python."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
EXTENSIONS = ["lckernels._C", "lckernels._host"]


def is_cuda_enabled() -> bool:
    """LCK_CUDA is 1, or it is unset and nvcc has the major CUDA version of torch."""
    value = os.environ.get("LCK_CUDA")
    if value is not None:
        if value not in ("0", "1"):
            raise SystemExit(f"LCK_CUDA: got {value!r}; expected 0 or 1")
        return value == "1"
    if shutil.which("nvcc") is None:
        return False
    import torch

    output = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    return torch.version.cuda is not None and f"release {torch.version.cuda.split('.')[0]}." in output


if is_cuda_enabled():
    EXTENSIONS.append("lckernels._C_cuda")


def find_tool(name: str) -> str | None:
    """Path of a program: beside this Python, where pip installs it, or on PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def missing_tool() -> str | None:
    """One sentence on what is missing for compiling; None if nothing is."""
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(name.split()[0]) for name in compilers):
        return "no C++ compiler was found (Debian, Ubuntu: apt-get install g++)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "the Python headers were not found (Debian, Ubuntu: apt-get install python3-dev)"
    for name in ("cmake", "ninja"):
        if find_tool(name) is None:
            return f"{name} was not found (pip install {name})"
    return None


class CMakeBuild(build_ext):
    """Builds `_C.so` and `_C_cuda.so` (torch ops, no Python) and `_host` (pybind11) with one CMake call."""

    def get_ext_filename(self, fullname: str) -> str:
        # _C.so and _C_cuda.so are not Python modules: one build is for every Python version.
        if fullname.endswith(("_C", "_C_cuda")):
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        import torch

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        build = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}"
        # The build folder exists longer than pip's build environments, so their paths are passed each time.
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DLCK_TORCH_DIR={Path(torch.__file__).parent}",
            f"-DLCK_OUTPUT_DIR={target.parent}",
            f"-DLCK_CUDA={'ON' if 'lckernels._C_cuda' in EXTENSIONS else 'OFF'}",
        ]  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(configure, check=True)
        library = ext.name.rpartition(".")[2]
        subprocess.run([cmake, "--build", str(build), "--target", library], check=True)


# Without extensions the wheel is py3-none-any. pip shows the message with -v alone; a call of an op warns.
missing = missing_tool()
if missing is not None:
    print(f"lckernels: {missing}; installing pure Python, with the eager backend only.", file=sys.stderr)
extensions = [Extension(name, sources=[]) for name in EXTENSIONS] if missing is None else []
setup(ext_modules=extensions, cmdclass={"build_ext": CMakeBuild})
