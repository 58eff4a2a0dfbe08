"""LongEncoder(merge="layer") against its definition by hand, and against merge="final" where equal."""

# ruff: noqa: E402
import math

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import FAMILIES, PAD, assert_rows, final, layer, pad, tiny, token_ids

import lckernels
from lckernels.checks import WEIGHTS

LAYERWISE = [family for family in FAMILIES if family != "mpnet"]


def chunk_weights(name, length, first, last, keep):
    u = torch.arange(length)
    left = torch.full_like(u, length) if first else u + 1
    right = torch.full_like(u, length) if last else length - u
    m = torch.minimum(left, right).double()
    return {
        "uniform": torch.ones_like(m),
        "triangular": m,
        "hann": torch.sin(math.pi * m / (2 * (length + 1))) ** 2,
        "crop": ((u >= keep[0]) & (u < keep[1])).double(),
    }[name]


def behind_attention(block, out, rows):
    state = block.attention.output(out, rows)
    return block.output(block.intermediate(state), state)


def by_hand(model, ids, chunk_len, overlap, weights, rule="sled", prefix=(), boundaries=None):
    """States (seqlen, dim) of `ids`, by a BERT with one special token at each end, chunk by chunk."""
    content, prefix = ids[1:-1], torch.as_tensor(prefix, dtype=torch.long)
    given = None if boundaries is None else [boundaries]
    plan = lckernels.plan_chunks(
        [len(content)],
        chunk_len,
        overlap,
        rule=rule,
        boundaries=given,
        num_leading=1 + len(prefix),
        num_trailing=1,
    )
    spans = [(s[2], s[2] + s[3], tuple(s[4:6])) for s in plan.segments.tolist()]
    parts = [
        chunk_weights(weights, end - start, i == 0, i == len(spans) - 1, keep)
        for i, (start, end, keep) in enumerate(spans)
    ]
    best = torch.full((len(content),), -1.0, dtype=torch.float64)
    place = torch.zeros(len(content), dtype=torch.long)
    for (start, end, _), part in zip(spans, parts, strict=True):
        for t in range(start, end):
            if part[t - start] > best[t]:
                best[t], place[t] = part[t - start], 1 + len(prefix) + t - start
    x = model.embeddings(input_ids=content[None], position_ids=place[None])[0]
    special = torch.cat([ids[:1], prefix, ids[-1:]])
    own = []
    for start, end, _ in spans:
        places = [*range(1 + len(prefix)), 1 + len(prefix) + end - start]
        own.append(model.embeddings(input_ids=special[None], position_ids=torch.tensor([places]))[0])
    for block in model.encoder.layer:
        attention = block.attention.self
        merged, weight_sum, special_out = torch.zeros_like(x), torch.zeros(len(x), 1), []
        for (start, end, _), part, extra in zip(spans, parts, own, strict=True):
            rows = torch.cat([x[start:end], extra])
            q, k, v = (
                linear(rows).unflatten(-1, (2, 8)).transpose(0, 1)
                for linear in (attention.query, attention.key, attention.value)
            )
            out = ((q @ k.mT / math.sqrt(8)).softmax(-1) @ v).transpose(0, 1).flatten(1)
            a = part.float()[:, None]
            merged[start:end] += a * out[: end - start]
            weight_sum[start:end] += a
            special_out.append(out[end - start :])

        x = behind_attention(block, merged / weight_sum, x)
        own = [behind_attention(block, out, extra) for out, extra in zip(special_out, own, strict=True)]
    return torch.cat([own[0][:1], x, own[-1][-1:]])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("rule", ["sled", "max_context", "sentence"])
@pytest.mark.parametrize("prefix", [(), (7, 8, 9)])
def test_definition(weights, rule, prefix):
    model = tiny()
    rows = [token_ids(90), token_ids(18), token_ids(41)]
    ids, mask = pad(rows, "left")
    cuts = [[5, 11, 12, 30, 44, 80], [9], [10, 20, 30]]
    columns = [[cut + 91 - len(row) for cut in of_row] for row, of_row in zip(rows, cuts, strict=True)]
    sentences = rule == "sentence"
    encoder = layer(model, 20, 6, weights, rule, prefix=prefix)
    with torch.no_grad():
        output = encoder(ids, mask, sentence_boundaries=columns if sentences else None).last_hidden_state
        expected = [
            by_hand(model, row, 20, 6, weights, rule, prefix, of_row if sentences else None)
            for row, of_row in zip(rows, cuts, strict=True)
        ]
    assert_rows(output, mask, expected)


@pytest.mark.parametrize("family", LAYERWISE)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_tokens", [1, 70, 10_000])
def test_without_overlap_it_is_the_final_merge(family, side, max_tokens):
    """No token is in two chunks: contents are multiples of 18, or shorter."""
    model = tiny(family)
    rows = [token_ids(2 + n) for n in (0, 18 * 4, 18, 3, 18 * 2, 0)]
    ids, mask = pad(rows, side)
    with torch.no_grad():
        expected = final(model, 20, 0)(ids, mask, output_hidden_states=True)
        output = layer(model, 20, 0, max_tokens=max_tokens)(ids, mask, output_hidden_states=True)
    assert type(output) is type(expected)
    assert len(output.hidden_states) == len(expected.hidden_states) == 3
    assert output.hidden_states[-1] is output.last_hidden_state
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", LAYERWISE)
@pytest.mark.parametrize("prefix", [(), (6, PAD, 7)])
def test_the_padding_id_within_a_row(family, prefix):
    """RoBERTa and XLM-R do not count it in their positions."""
    model = tiny(family)
    content = 20 - 2 - len(prefix)
    rows = [token_ids(2 + content * 3), token_ids(2 + content), token_ids(9)]
    rows[0][[5, 6, 30]] = PAD
    rows[1][[1, -2]] = PAD
    ids, mask = pad(rows, "left")
    with torch.no_grad():
        expected = final(model, 20, 0, prefix=prefix)(ids, mask).last_hidden_state
        output = layer(model, 20, 0, prefix=prefix)(ids, mask).last_hidden_state
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        embeds = model.get_input_embeddings()(ids)
        expected = final(model, 20, 0, prefix=prefix)(inputs_embeds=embeds, attention_mask=mask)
        output = layer(model, 20, 0, prefix=prefix)(inputs_embeds=embeds, attention_mask=mask)
    torch.testing.assert_close(output[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", LAYERWISE)
@pytest.mark.parametrize("prefix", [(), (6, 7)])
def test_one_chunk_is_the_model_itself(family, prefix):
    model = tiny(family)
    ids, mask = pad([token_ids(n) for n in (9, 32 - len(prefix), 20, 2)], "right")
    with torch.no_grad():
        expected = final(model, prefix=prefix)(ids, mask).last_hidden_state
        output = layer(model, prefix=prefix)(ids, mask).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("leading", "trailing"), [(2, 1), (0, 1), (1, 0), (0, 0), (3, 2)])
def test_special_tokens_of_any_number(leading, trailing):
    model, special = tiny(), leading + trailing
    rows = [token_ids(max(n, 2))[:n] for n in (special + 7 * 3, special + 1, special + 7)]
    if special:
        rows.append(token_ids(max(special, 2))[:special])
    ids, mask = pad(rows, "left")
    options = {"special_tokens": (leading, trailing)}
    with torch.no_grad():
        expected = final(model, special + 7, 0, **options)(ids, mask).last_hidden_state
        output = layer(model, special + 7, 0, **options)(ids, mask).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 90, 10_000])
def test_a_row_alone_and_in_company(max_tokens):
    model = tiny()
    rows = [token_ids(n) for n in (70, 2, 33, 100, 20)]
    ids, mask = pad(rows, "right")
    with torch.no_grad():
        expected = [layer(model, 20, 6)(row[None]).last_hidden_state[0] for row in rows]
        assert_rows(layer(model, 20, 6, max_tokens=max_tokens)(ids, mask).last_hidden_state, mask, expected)


def test_a_document_is_run_whole_and_once(monkeypatch):
    model, sizes = tiny(), []
    run = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: sizes.append(inputs["input_ids"].numel()) or run(**inputs)
    )
    ids, mask = pad([token_ids(n) for n in (74, 10, 11, 30)], "right")
    with torch.no_grad():
        layer(model, 20, 0, max_tokens=40)(ids, mask)
    # 72 of content in 4 chunks, [CLS] and [SEP] each; then 8 + 2 and 9 + 2; 28 + 4.
    assert sizes == [80, 21, 32]


def test_a_model_without_the_interface_is_noticed(monkeypatch):
    model, other = tiny(), tiny()
    monkeypatch.setattr(model, "forward", lambda **inputs: other.forward(**inputs))
    with pytest.raises(
        ValueError, match="its attention does not go through transformers' attention interface"
    ):
        layer(model, 20)(token_ids(40)[None])
    embed = model.embeddings
    output = transformers.modeling_outputs.BaseModelOutput
    monkeypatch.setattr(
        model,
        "forward",
        lambda input_ids, position_ids, **inputs: output(embed(input_ids, None, position_ids)),
    )
    with pytest.raises(TypeError, match="BertModel ran without lckernels' attention; use merge='final'"):
        layer(model, 20)(token_ids(40)[None])


def test_inputs_embeds_and_token_types():
    model = tiny()
    ids, mask = pad([token_ids(70), token_ids(40), token_ids(11)], "right")
    types = (torch.arange(70) >= 30).long().expand(3, 70)
    embeds = model.get_input_embeddings()(ids)
    embeds = torch.where(mask[..., None].bool(), embeds, torch.nan)
    encoder = layer(model, 24, 8, prefix=[6])
    with torch.no_grad():
        by_ids = encoder(ids, mask, token_type_ids=types).last_hidden_state
        by_embeds = encoder(inputs_embeds=embeds, attention_mask=mask, token_type_ids=types).last_hidden_state
        plain = encoder(ids, mask).last_hidden_state
    torch.testing.assert_close(by_embeds, by_ids)
    assert not torch.allclose(plain, by_ids)


def test_explicit_weights_and_their_gradient():
    model, ids = tiny(), token_ids(70)[None]
    plan = layer(model, 20, 6).plan(70)
    learned = torch.full((plan.num_chunks, plan.chunk_len), 2.0, requires_grad=True)
    uniform = layer(model, 20, 6, "uniform")(ids).last_hidden_state
    output = layer(model, 20, 6, learned)(ids).last_hidden_state
    torch.testing.assert_close(output, uniform)
    output.square().sum().backward()
    assert learned.grad.abs().sum() > 0
    by_function = layer(model, 20, 6, lambda plan: torch.ones(plan.num_chunks, plan.chunk_len))
    torch.testing.assert_close(by_function(ids).last_hidden_state, uniform)
    # Rows of a batch are those of the batch's plan, also if several share a row of the model.
    ids, mask = pad([token_ids(40), token_ids(70)], "right")
    plan = layer(model, 20, 6).plan([40, 70])
    table = torch.rand(plan.num_chunks, plan.chunk_len) + 0.1
    with torch.no_grad():
        outputs = [layer(model, 20, 6, table, max_tokens=n)(ids, mask).last_hidden_state for n in (1, 1000)]
    torch.testing.assert_close(*outputs)


def test_gradients_are_those_by_hand():
    model = tiny()
    rows = [token_ids(70), token_ids(25)]
    ids, mask = pad(rows, "right")
    target = torch.randn(2, 70, 16, generator=torch.Generator().manual_seed(5))

    def gradients(states):
        model.zero_grad()
        (states * target * mask[..., None]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    states = [by_hand(model, row, 20, 6, "triangular") for row in rows]
    truth = gradients(
        torch.stack([torch.nn.functional.pad(state, (0, 0, 0, 70 - len(state))) for state in states])
    )
    ours = gradients(layer(model, 20, 6, max_tokens=60)(ids, mask).last_hidden_state)
    assert ours.keys() == truth.keys()
    for name in truth:
        torch.testing.assert_close(ours[name], truth[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    ids, mask = pad([token_ids(70), token_ids(25)], "right")
    gradients = []
    for checkpointing in (False, True):
        model = tiny()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        output = layer(model, 20, 6).train()(ids, mask).last_hidden_state
        output.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for mine, plain in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


def test_training_step_with_dropout_lowers_the_loss():
    encoder = layer(tiny(), 20, 6).train()
    ids, mask = pad([token_ids(70), token_ids(25)], "right")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (encoder(ids, mask).last_hidden_state.mean(1) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_attention_with_dropout_keeps_its_mean():
    model, count, seen = tiny(), 20, {}
    ids = token_ids(70).expand(count, -1)
    block = model.encoder.layer[0]
    block.attention.output.dense.register_forward_pre_hook(lambda module, args: seen.update(out=args[0]))
    model.encoder.layer = model.encoder.layer[:1]

    def run(encoder):
        """(count, 80, 16): 68 tokens of each sequence, then the special tokens of its 6 chunks."""
        encoder(ids)
        parts = seen["out"][0].split((count * 68, count * 12))
        return torch.cat([part.unflatten(0, (count, -1)) for part in parts], dim=1)

    with torch.no_grad():
        expected = run(layer(model, 20, 6))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        block.attention.self.dropout.p = 0.3
        encoder = layer(model, 20, 6).train()
        draws = torch.cat([run(encoder) for _ in range(15)])
    torch.testing.assert_close(expected, expected[:1].expand_as(expected))
    error = draws.std(0) / math.sqrt(len(draws))
    assert (error > 0).all()
    assert ((draws.mean(0) - expected[0]).abs() < 6 * error).all()
