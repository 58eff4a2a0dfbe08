"""Comments, docstrings and messages of the code, and the words that they must not have."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Verbs that make a function or a tensor a person, and other metaphors.
_NOT_PLAIN = (
    "knows?",
    "wants?",
    "asks?",
    "asked",
    "tells?",
    "told",
    "refuses?",
    "refused",
    "thinks?",
    "judges",
    "decides?",
    "serves?",
    "says?",
    "said",
    "picks?",
    "obeys?",
    "lies",
    "stands? (?:in|at|for)",
    "price of",
    "hands over",
    "gives? up",
    "takes? care",
    "by itself",
    "by themselves",
    "for a while",
    "for ever",
)
_WORDS = re.compile(rf"\b(?:{'|'.join(_NOT_PLAIN)})\b", re.IGNORECASE)
# Names of the code: between backquotes, or an argument before its description.
_NAMES = re.compile(r"`[^`\n]*`|^ *\w+(?:, \w+)*:", re.MULTILINE)
_CPP_TEXT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_CPP = (".cpp", ".h", ".cu", ".cuh")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def not_plain(text: str) -> list[str]:
    """The words of the text that are not plain, each once."""
    return sorted({word.lower() for word in _WORDS.findall(_NAMES.sub("", text))})


def sources() -> list[Path]:
    """The files of code and of the build."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    folders = ("lckernels/", "csrc/", "bench/", "tests/", "python/", "setup.py", "Makefile", "CMakeLists.txt")
    paths = (ROOT / name for name in listed if name.startswith(folders))
    return [path for path in paths if path.suffix in (".py", *_CPP) or path.name in folders if path.exists()]


def texts(path: Path) -> Iterator[str]:
    """The comments, docstrings and messages of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from python_texts(source, every_string=path.is_relative_to(ROOT / "lckernels"))
    elif path.suffix in _CPP:
        yield from _CPP_TEXT.findall(source)
    else:
        yield from re.findall("#.*", source)


def python_texts(source: str, every_string: bool) -> Iterator[str]:
    """Comments, docstrings, and the strings of raise and warn; with every_string all strings of words."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED):
            yield ast.get_docstring(node) or ""
        if isinstance(node, ast.Module if every_string else ast.Raise) or _warns(node):
            strings = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
            yield from (x for x in strings if isinstance(x, str) and " " in x)


def undescribed(source: str) -> Iterator[str]:
    """Lines of docstrings that describe an argument or a field outside a section, or have columns."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED):
            described = rf"(?:{'|'.join(_described(node)) or '(?!)'})(?:, \w+)*: "
            for line in (ast.get_docstring(node) or "").splitlines()[1:]:
                if re.match(described, line) or re.match(r"\S+(?: \S+)?  +\S", line):
                    yield f"{getattr(node, 'name', 'module')}: {line}"


def _warns(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("warn", "warning")


def _described(node: ast.AST) -> list[str]:
    """Names of the arguments of a function, or of the fields of a class."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)]
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [part.target.id for part in body if isinstance(part, ast.AnnAssign)]
