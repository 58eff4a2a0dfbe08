"""Importing and patching work where transformers has moved or renamed a name that is not documented."""

# ruff: noqa: E402
import ast
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="the names are those of transformers")

from helpers import fresh_python

import lckernels

NAMES = [
    ("utils.output_capturing", "_active_collector"),
    ("masking_utils", "causal_mask_function"),
    ("masking_utils", "bidirectional_mask_function"),
    ("masking_utils", "sdpa_mask"),
    ("integrations.sdpa_attention", "sdpa_attention_forward"),
    ("activations", "ACT2FN"),
    ("cache_utils", "LinearAttentionCacheLayerMixin"),
    ("cache_utils", "DynamicSlidingWindowLayer"),
    ("cache_utils", "DummyLayer"),
]
# What an older version does not have.
OLD = {"5.17.0": [("cache_utils", "DummyLayer")]}
# lckernels gets a copy of the module without the name, or with what transformers exports; transformers itself
# keeps its own.
HIDDEN = """
import sys, types
import torch, transformers
transformers.MistralForCausalLM, transformers.BertModel  # loaded with the name
import transformers.{module} as real
assert hasattr(real, "{name}"), "this version has no {name}: the case is out of date"
hidden = types.ModuleType(real.__name__)
exported = dir(transformers) if {moved} else [*real.__dict__]
kept = [key for key in exported if key in real.__dict__ and key != "{name}"]
hidden.__dict__.update({{key: real.__dict__[key] for key in kept}})
sys.modules[real.__name__] = hidden
import lckernels, lckernels.hf, lckernels.long
from lckernels import LongEncoder
import lckernels.hf.choice, lckernels.hf.support
sys.modules[real.__name__] = real
"""
CHECKS = """
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
ids, mask = torch.randint(1, 64, (2, 20)), torch.ones(2, 20, dtype=torch.long)
mask[1, :6] = 0
decoder = transformers.MistralForCausalLM(
    transformers.MistralConfig(**sizes, num_key_value_heads=2, sliding_window=7, attn_implementation="eager")
).eval()
encoder = transformers.BertModel(transformers.BertConfig(**sizes, attn_implementation="eager")).eval()
for model in (decoder, encoder):
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, output_attentions=True)
        with lckernels.patched(model) as report:
            assert len(report.taken) == 2, str(report)
            ours = model(ids, attention_mask=mask)
            weights = model(ids, attention_mask=mask, output_attentions=True).attentions
    valid = mask.bool()
    torch.testing.assert_close(ours[0][valid], expected[0][valid], rtol=1e-4, atol=1e-5)
    for one, other in zip(weights, expected.attentions, strict=True):
        torch.testing.assert_close(
            one.transpose(1, 2)[valid], other.transpose(1, 2)[valid], rtol=1e-4, atol=1e-5
        )
encoder.set_attn_implementation("sdpa")
with torch.no_grad():
    expected = LongEncoder(encoder, 20, attention="model")(ids, mask).last_hidden_state
    ours = LongEncoder(encoder, 20, attention="lckernels")(ids, mask).last_hidden_state
torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
"""


# transformers is imported once; each case runs in a fork of its own.
FORKS = """
import os, traceback
import torch, transformers
transformers.MistralForCausalLM, transformers.BertModel
failed = []
for case, code in {cases!r}.items():
    child = os.fork()
    if not child:
        try:
            exec(compile(code, case, "exec"), {{"__name__": "case"}})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(case)
assert not failed, failed
"""


def test_without_a_name():
    names = [case for case in NAMES if case not in OLD.get(transformers.__version__, [])]
    cases = [(*case, False) for case in names] + [
        (module, name, True) for module, name in dict(names).items()
    ]
    codes = {
        f"{module}.{name} {'moved' if moved else 'renamed'}": HIDDEN.format(
            module=module, name=name, moved=moved
        )
        + CHECKS
        for module, name, moved in cases
    }
    done = fresh_python.run(FORKS.format(cases=codes))
    assert done.returncode == 0, done.stderr


def test_without_the_method_that_finds_the_interface():
    """The dry run finds that no attention of a model goes through the interface."""
    code = """
import torch, transformers
import lckernels, lckernels.hf
hidden = "_can_set_attn_implementation"
assert hasattr(transformers.PreTrainedModel, hidden)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
bert = transformers.BertModel(transformers.BertConfig(**sizes))
mpnet = transformers.MPNetModel(transformers.MPNetConfig(**sizes))
delattr(transformers.PreTrainedModel, hidden)
assert len(lckernels.patch(bert).taken) == 2
try:
    lckernels.patch(mpnet)
except TypeError as error:
    assert "a patch would do nothing" in str(error), error
else:
    raise SystemExit("patched")
"""
    done = fresh_python.run(code)
    assert done.returncode == 0, done.stderr


DOCUMENTED = (  # on the page "Model outputs" of its documentation
    "from transformers.utils import ModelOutput",
    "from transformers.modeling_outputs import BaseModelOutput",
)


def test_every_name_that_is_not_documented_is_in_one_file():
    """Elsewhere only what `transformers` itself exports is imported, and what its documentation has."""
    package, found = Path(lckernels.__file__).parent, []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
                private = [x.name for x in node.names if x.name.startswith("_")]
                public = node.module == "transformers" and not private
                public = public or ast.unparse(node) in DOCUMENTED
                if path.name != "private.py" and not public:
                    found.append(f"{path.relative_to(package)}: {ast.unparse(node)}")
            if isinstance(node, ast.Import):
                found += [f"{path}: {x.name}" for x in node.names if x.name.startswith("transformers.")]
    assert not found
