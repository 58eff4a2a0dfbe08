"""The pages of the documentation: their blocks of code, their links, the models and texts that they read."""

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from helpers.docs_models import save_models_with_heads
from helpers.tiny_bert import save_tiny_bert, tiny_text
from helpers.tiny_decoder import byte_tokenizer, save_tiny_decoder

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_OTHER = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "findings/README.md",
    "bench/README.md",
    "csrc/cpu/README.md",
    "csrc/cuda/README.md",
    "lckernels/backends/triton/README.md",
)
PROSE = [*PAGES, *(ROOT / name for name in _OTHER)]
REQUIRED = {"export.md": ("onnxscript", "onnxruntime")}  # modules of extras that the blocks of a page import
NOT_RUN = "# not run: "  # the first line of a block that the tests leave out, with the reason

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str = "python") -> list[tuple[int, str]]:
    """Line number and text of each block of the language that is to be run."""
    text = page.read_text(encoding="utf-8")
    found = [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in _BLOCK.finditer(text) if m[1] == language]
    return [(line, code) for line, code in found if not code.startswith(NOT_RUN)]


def command_lines(page: Path) -> list[str]:
    """The lines of the page's blocks that call the command `lckernels`."""
    lines = (line for m in _BLOCK.finditer(page.read_text(encoding="utf-8")) for line in m[2].splitlines())
    return [line for line in lines if line.startswith("lckernels ")]


def prose(page: Path) -> str:
    """The page without its blocks of code and the words between backquotes."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))


def paths(page: Path) -> list[str]:
    """The paths of the repository that the page names between backquotes; NAME is a placeholder."""
    named = re.findall(
        r"`((?:\.ci|bench|csrc|docs|findings|lckernels|python|tests)/[\w./-]*)[^`]*`", page.read_text("utf-8")
    )
    return [path for path in named if "NAME" not in path and not path.endswith(".")]


def links(page: Path) -> list[str]:
    """Targets of the page's links to files of the repository."""
    return [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]


def save_models_and_texts(folder: Path) -> None:
    """Tiny models under the hub names that the pages load, and the texts that they read, in `folder`."""
    save_tiny_bert(folder / "sentence-transformers" / "all-MiniLM-L6-v2", 32, positions=512)
    save_tiny_modernbert(folder / "answerdotai" / "ModernBERT-base")
    save_tiny_decoder(folder / "HuggingFaceTB" / "SmolLM2-135M")
    save_tiny_chat_model(folder / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    save_models_with_heads(folder)
    text = folder / "bench" / "data" / "jargon-file.txt"
    text.parent.mkdir(parents=True)
    text.write_text(tiny_text(200), encoding="utf-8")
    (folder / "book.txt").write_text(tiny_text(200), encoding="utf-8")
    (folder / "squad.json").write_text(json.dumps(squad({"river?": ("River", tiny_text(30))})))


def squad(examples: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """A file of SQuAD, of questions with their answer and the text, in which it occurs."""
    paragraphs = [
        {
            "context": text,
            "qas": [
                {"question": question, "answers": [{"text": answer, "answer_start": text.index(answer)}]}
            ],
        }
        for question, (answer, text) in examples.items()
    ]
    return {"data": [{"paragraphs": paragraphs}]}


def save_tiny_chat_model(folder: Path) -> None:
    """A decoder and a tokenizer with a chat template of plain lines."""
    save_tiny_decoder(folder)
    tokenizer = byte_tokenizer()
    lines = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = lines + "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer.save_pretrained(folder)


def save_tiny_modernbert(folder: Path) -> None:
    """A ModernBERT with windows in two of three layers, and a tokenizer of bytes."""
    config = transformers.ModernBertConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        local_attention=16,
        pad_token_id=3,
        cls_token_id=0,
        sep_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    transformers.ModernBertModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
