"""Every architecture with local attention that can be built here: patched, it equals eager attention.

Those outside PART have the mark `slow`; `-m hf` runs all. `--hf-table PATH` writes the results as a table.
"""

# ruff: noqa: E402
import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")

from helpers import hf_table
from helpers.hf_checks import CHECKS, checks_of
from helpers.hf_models import MODELS, REFUSED, has
from helpers.hf_parity import NotPossible, count_kernel_calls, tiny
from helpers.hf_table import Table, describe
from helpers.written_tables import written

import lckernels

# One of each kind of mask, score and cache.
PART = (
    "mistral", "qwen2", "gemma2", "gpt_oss", "mimo_v2_flash", "llama4_text", "modernbert", "t5gemma",
    "bert", "llama",
)  # fmt: skip


def pytest_generate_tests(metafunc):
    if "name" not in metafunc.fixturenames:
        return
    with_check = "check" in metafunc.fixturenames
    cases = [
        pytest.param(*case, id="-".join(case), marks=() if name in PART else pytest.mark.slow)
        for name in MODELS
        if has(name)
        for case in ([(name, check) for check in checks_of(name)] if with_check else [(name,)])
    ]
    metafunc.parametrize(("name", "check") if with_check else "name", cases, scope="module")


@pytest.fixture(scope="module")
def table(request):
    yield from written(Table(), request, "--hf-table")


def test_parity(name, check, table, one_thread):
    results = table.results.setdefault(name, {})
    results[check] = "no"
    try:
        CHECKS[check](name, tiny(name))
    except NotPossible as reason:
        results[check] = str(reason)
        pytest.skip(f"{name}, {check}, not possible: {reason}")
    results[check] = "yes"


def test_the_report_equals_the_calls(name, table):
    """A forward of text has as many calls of the kernel as the report has layers on lckernels for text."""
    model = tiny(name)
    with lckernels.patched(model) as report:
        pass
    table.layers[name] = describe(report)
    calls = count_kernel_calls(lambda: CHECKS["forward"](name, model))
    assert calls > 0
    assert report.exact
    if report.unknown:
        assert all(row.verdict == "known at its first call" for row in report.rows)
    else:
        assert calls == sum(not reads_images(model, row.layer) for row in report.taken)


def reads_images(model, layer):
    """Whether the layer is within a model for images."""
    parts = layer.split(".")
    above = (model.get_submodule(".".join(parts[:n])) for n in range(len(parts)))
    return any(getattr(module, "main_input_name", "") == "pixel_values" for module in above)


@pytest.mark.parametrize("refused", REFUSED)
def test_the_error_names_what_is_unsupported(refused, table):
    if not has(refused):
        pytest.skip(f"transformers {transformers.__version__} has no {refused}")
    model, said = tiny(refused), REFUSED[refused][1]
    before = model.config
    with pytest.raises(TypeError, match=f"a patch would do nothing: .*{said}") as error:
        lckernels.patch(model)
    table.refused[refused] = str(error.value).partition("a patch would do nothing: ")[2]
    assert model.config is before


def test_the_table_requires_every_case():
    cases = [(name, check) for name in MODELS if has(name) for check in checks_of(name)]
    assert hf_table.missing_cases(cases) == []
    assert hf_table.missing_cases(cases[:-1]) == [cases[-1][0]]
    names = [name for name in MODELS if has(name)]
    assert hf_table.missing_cases([case for case in cases if case[0] == "bert"]) == [
        name for name in names if name != "bert"
    ]


def test_a_selection_writes_no_table(tmp_path, pytestconfig):
    """`--hf-table` with `-k` is an error of usage before a test runs."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "hf", "-k", "bert", __file__, "--collect-only"]
    table = tmp_path / "table.md"
    done = subprocess.run(
        [*command, "--hf-table", str(table)], capture_output=True, text=True, cwd=pytestconfig.rootpath
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--hf-table: got a selection without" in done.stderr
    assert not table.exists()


def test_the_documentation_has_every_model():
    """The table in docs/ is from a sweep of all architectures in which nothing failed."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "huggingface_support.md").read_text()
    table = page.splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table if line.startswith("| ")}
    assert [name for name in (*MODELS, *REFUSED) if name not in rows] == []
    assert not any(hf_table.FAILED in line for line in table)
    passed = [name for name in MODELS if f"| {hf_table.REFUSED} |" not in rows[name]]
    listed = " ".join(page.split()).partition(hf_table.NAMES)[2]
    assert listed.startswith(f"{', '.join(passed)}.")
