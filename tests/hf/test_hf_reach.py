"""How many tokens a layer and a model attend to, against the tokens that change a state."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import SIZES, WIDE, tiny, token_ids
from helpers.hf_encoders import make_encoder
from helpers.windowed_encoders import WINDOWED, modernbert, t5, windowed

import lckernels
from lckernels.hf.masks.kinds import Kind
from lckernels.hf.reach import LayerReach, model_reach, total_reach

LENGTH, MIDDLE = 61, 30


def measured_reach(model):
    """How many tokens before and after a token change its state, found by changing each token."""
    ids = token_ids(LENGTH)
    changed = []
    with torch.no_grad():
        state = model(ids[None]).last_hidden_state[0, MIDDLE]
        for at in range(LENGTH):
            other = ids.clone()
            other[at] = ids[at] % 50 + 5
            if not torch.equal(model(other[None]).last_hidden_state[0, MIDDLE], state):
                changed.append(at)
    return MIDDLE - min(changed), max(changed) - MIDDLE


@pytest.mark.parametrize("name", WINDOWED)
def test_it_is_the_reach_of_a_state(name):
    with windowed(name) as (model, expected):
        reach = model_reach(model)
        assert reach.total == expected == measured_reach(model)
    before, after = expected
    assert str(reach) == (
        f"{before} tokens before a token, {after} after it, through {len(reach.layers)} layers"
    )
    assert all(layer.before * len(reach.layers) == before for layer in reach.layers)


def test_a_layer_that_runs_three_times_counts_three_times():
    config = transformers.AlbertConfig(
        **{**SIZES, **WIDE, "num_hidden_layers": 3}, embedding_size=8, initializer_range=0.2
    )
    torch.manual_seed(0)
    model = transformers.AlbertModel(config).eval().double()
    with lckernels.patched(model, window=4):
        assert model_reach(model).total == (6, 6) == measured_reach(model)
        assert len(model_reach(model).layers) == 3


def test_it_is_that_of_the_model_now():
    model = t5()
    assert model_reach(model).total == (None, None)
    lckernels.patch(model, window=4)
    assert model_reach(model).total == (4, 4)
    lckernels.unpatch(model)
    assert model_reach(model).total == (None, None)
    assert "SelfAttention has bidirectional attention without a bound" in str(model_reach(model))


def test_a_side_without_a_bound():
    model = t5()
    with lckernels.patched(model, window=(3, -1)):
        assert model_reach(model).total == (6, None)
        assert "no window in 2 of 2 layers" in str(model_reach(model))


def test_layers_with_a_window_and_without():
    reach = model_reach(make_encoder("modernbert"))
    assert [(layer.before, layer.after) for layer in reach.layers] == [
        (None, None), (4, 4), (4, 4), (None, None),
    ]  # fmt: skip
    assert [bool(layer.reason) for layer in reach.layers] == [True, False, False, True]
    assert str(reach) == (
        "all tokens; no window in 2 of 4 layers: layers.0.attn has bidirectional attention without a bound"
    )


def test_sink_tokens_have_no_bound():
    from helpers.hf_models import build

    model = build("llama")
    with lckernels.patched(model, window=4, sink_tokens=1):
        reach = model_reach(model)
    assert reach.total == (None, 0)
    assert reach.layers[0].reason == "attends to the first 1 token of a row, sink tokens of lckernels.patch"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mpnet", "not known: it computes with its attention mask itself"),
        ("fnet", "not known: no attention of it goes through transformers' attention interface"),
        ("layoutlm", "layer.0.attention.self runs as dense attention: it uses a dense mask of its own"),
    ],
)
def test_what_has_no_known_reach(name, why):
    reach = model_reach(make_encoder(name))
    assert why in str(reach)
    assert reach.total == (None, None)


def test_a_layer_with_its_own_code():
    model = tiny()

    class OwnAttention(torch.nn.Module):
        def forward(self, x, *args, **options):
            return x.mean(1, keepdim=True).expand_as(x), None

    model.encoder.layer[1].attention = OwnAttention()
    unknown = "not known: the code of encoder.layer.1.attention does not go through transformers'"
    assert str(model_reach(model)).startswith(unknown)


def test_a_convolution_has_no_known_reach():
    model = modernbert()
    model.layers[0].mlp.add_module("conv", torch.nn.Conv1d(1, 1, 3))
    assert str(model_reach(model)) == "not known: its Conv1d mixes neighbouring tokens outside attention"


def test_attention_within_chunks_has_a_reach_but_no_window():
    from helpers.hf_models import build

    reach = model_reach(build("llama4_text"))
    inside = [layer for layer in reach.layers if "within chunks of 6" in layer.reason]
    assert inside == [LayerReach(inside[0].layer, None, None, inside[0].reason)]
    assert total_reach([Kind((-1, 0), 6), Kind((2, 0), 6)]) == (5, 0)
    assert total_reach([Kind((-1, 0), 6), Kind((2, 0))]) == (7, 0)
    assert total_reach([Kind((4, 1)), Kind((2, 0))]) == (6, 1)
    assert total_reach([Kind((4, 1)), Kind((-1, 0))]) == (None, 1)
