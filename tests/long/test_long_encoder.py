"""LongEncoder against its definition: a Python loop over chunks, index_add_ and a division."""

import pytest
import torch
from helpers.encoder_models import FAMILIES, assert_rows, chunk_by_chunk, pad, tiny, token_ids

import lckernels
import lckernels.hf.support


@pytest.fixture(autouse=True)
def lckernels_attention(monkeypatch):
    """Rows as short as those here run on lckernels' attention too."""
    monkeypatch.setattr(lckernels.hf.support, "SHORT_ROW", 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_ragged_batch_of_each_architecture(family, side):
    model = tiny(family)
    encoder = lckernels.LongEncoder(model, overlap=9, max_tokens=100)
    assert encoder.chunk_len == 32
    rows = [token_ids(n) for n in (100, 32, 33, 7, 31, 75)]
    ids, mask = pad(rows, side)
    with torch.no_grad():
        output = encoder(input_ids=ids, attention_mask=mask)
        expected = [chunk_by_chunk(model, row, 32, 9) for row in rows]
    assert output.last_hidden_state.shape == (6, 100, 16)
    assert_rows(output.last_hidden_state, mask, expected)


@pytest.mark.parametrize("weights", ["uniform", "triangular", "hann", "crop"])
@pytest.mark.parametrize("rule", ["sled", "max_context", "sentence"])
@pytest.mark.parametrize("prefix", [(), (7, 8, 9)])
def test_weights_rules_and_prefix(weights, rule, prefix):
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6, weights, rule, prefix=prefix)
    rows = [token_ids(90), token_ids(18), token_ids(41)]
    ids, mask = pad(rows, "left")
    # Columns of input_ids; cuts in the content are one column (the [CLS]) and the padding further left.
    cuts = [[5, 11, 12, 30, 44, 80], [9], [10, 20, 30]]
    columns = [[cut + 91 - len(row) for cut in of_row] for row, of_row in zip(rows, cuts, strict=True)]
    sentences = rule == "sentence"
    with torch.no_grad():
        output = encoder(ids, mask, sentence_boundaries=columns if sentences else None).last_hidden_state
        expected = [
            chunk_by_chunk(model, row, 20, 6, weights, rule, prefix, of_row if sentences else None)
            for row, of_row in zip(rows, cuts, strict=True)
        ]
    assert_rows(output, mask, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_chunk_is_the_model_itself(family):
    model = tiny(family)
    encoder = lckernels.LongEncoder(model)
    ids = torch.stack([token_ids(32, seed) for seed in range(3)])
    with torch.no_grad():
        plain, ours = model(input_ids=ids), encoder(input_ids=ids)
        assert type(ours) is type(plain)
        torch.testing.assert_close(ours.last_hidden_state, plain.last_hidden_state, rtol=1e-5, atol=1e-5)
        own = lckernels.LongEncoder(model, attention="model")(input_ids=ids)
        assert torch.equal(own.last_hidden_state, plain.last_hidden_state)
        short, mask = pad([token_ids(n) for n in (9, 32, 20)], "right")
        plain = model(input_ids=short, attention_mask=mask).last_hidden_state
        ours = encoder(input_ids=short, attention_mask=mask).last_hidden_state
    assert_rows(ours, mask, [row[m.bool()] for row, m in zip(plain, mask, strict=True)])


def test_output_has_the_models_form():
    model = tiny()
    encoder = lckernels.LongEncoder(model)
    ids = token_ids(80)[None]
    with torch.no_grad():
        output = encoder(input_ids=ids, output_hidden_states=True)
        assert output.pooler_output is None
        assert len(output.hidden_states) == 3
        assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
        embedding = model.embeddings(ids[:, :32])
        torch.testing.assert_close(output.hidden_states[0][:, :16], embedding[:, :16])
        as_tuple = encoder(input_ids=ids, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 1
    assert torch.equal(as_tuple[0], output.last_hidden_state)
    assert encoder.config is model.config
    assert not encoder.training


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("prefix", [(), (6, 7)])
def test_inputs_embeds_give_what_input_ids_give(family, prefix):
    model = tiny(family)
    encoder = lckernels.LongEncoder(model, 24, 8, prefix=prefix)
    ids, mask = pad([token_ids(70), token_ids(40), token_ids(11), token_ids(10)], "right")
    embeds = model.get_input_embeddings()(ids)
    # Values in padding must not matter.
    embeds = torch.where(mask[..., None].bool(), embeds, torch.nan)
    with torch.no_grad():
        by_ids = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        by_embeds = encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(by_embeds, by_ids)


def test_token_type_ids_follow_their_tokens():
    model = tiny()
    encoder = lckernels.LongEncoder(model, 24, 8)
    ids = token_ids(60)[None]
    types = (torch.arange(60) >= 30).long()[None]
    with torch.no_grad():
        output = encoder(input_ids=ids, token_type_ids=types, output_hidden_states=True)
        zero = encoder(input_ids=ids, output_hidden_states=True)
    changed = (output.hidden_states[0] - zero.hidden_states[0]).abs().amax(-1)[0] > 1e-6
    assert torch.equal(changed, types[0].bool())


def test_special_tokens_alone_and_none_at_all():
    model = tiny()
    ids, mask = pad([token_ids(2), token_ids(50), token_ids(2)], "right")
    with torch.no_grad():
        output = lckernels.LongEncoder(model, 20)(ids, mask).last_hidden_state
        torch.testing.assert_close(output[2, :2], model(ids[2:, :2]).last_hidden_state[0])
        bare = lckernels.LongEncoder(model, 20, 4, special_tokens=(0, 0))(ids[1:2]).last_hidden_state[0]
        first = model(ids[1:2, :20]).last_hidden_state[0]
    torch.testing.assert_close(bare[:16], first[:16])


@pytest.mark.parametrize("max_tokens", [1, 50, 10_000])
def test_micro_batches_are_bounded_and_do_not_change_the_result(max_tokens, monkeypatch):
    model = tiny()
    ids, mask = pad([token_ids(n) for n in (100, 12, 13, 15, 61, 14)], "right")
    with torch.no_grad():
        expected = lckernels.LongEncoder(model, 20, 5)(ids, mask).last_hidden_state
        sizes, masked, run = [], [], model.forward

        def forward(**inputs):
            sizes.append(inputs["input_ids"].numel())
            masked.append("attention_mask" in inputs)
            return run(**inputs)

        monkeypatch.setattr(model, "forward", forward)
        output = lckernels.LongEncoder(model, 20, 5, max_tokens=max_tokens)(ids, mask).last_hidden_state
    torch.testing.assert_close(output, expected)
    assert max(sizes) <= max(max_tokens, 20)
    # 8 + 5 full chunks and four short ones: one by one; 6 full pairs, (20, 15), (14, 13, 12); or all at once.
    tokens = 13 * 20 + 15 + 14 + 13 + 12
    assert masked == {1: 17 * [False], 50: 6 * [False] + [True, True], 10_000: [True]}[max_tokens]
    assert tokens <= sum(sizes) <= 1.125 * tokens


def test_gradients_are_those_read_chunk_by_chunk():
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6, max_tokens=60)
    rows = [token_ids(70), token_ids(25)]
    ids, mask = pad(rows, "right")
    target = torch.randn(2, 70, 16, generator=torch.Generator().manual_seed(5))

    def gradients(states):
        model.zero_grad()
        (states * target * mask[..., None]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    states = [chunk_by_chunk(model, row, 20, 6) for row in rows]
    padded = [torch.nn.functional.pad(state, (0, 0, 0, 70 - len(state))) for state in states]
    truth = gradients(torch.stack(padded))
    ours = gradients(encoder(ids, mask).last_hidden_state)
    assert ours.keys() == truth.keys()
    for name in truth:
        torch.testing.assert_close(ours[name], truth[name], rtol=1e-4, atol=1e-4, msg=name)


def test_gradient_of_inputs_embeds():
    model = tiny()
    ids, mask = pad([token_ids(70), token_ids(25)], "left")
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    model.requires_grad_(False)
    output = lckernels.LongEncoder(model, 20, 6)(inputs_embeds=embeds, attention_mask=mask)
    output.last_hidden_state.square().sum().backward()
    moved = embeds.grad.abs().amax(-1) > 0
    assert torch.equal(moved, mask.bool())


def test_training_step_with_dropout_lowers_the_loss():
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6).train()
    assert model.training
    ids, mask = pad([token_ids(70), token_ids(25)], "right")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        states = encoder(ids, mask).last_hidden_state
        loss = (states.mean(1) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_explicit_weights_and_their_gradient():
    model = tiny()
    ids = token_ids(70)[None]
    plan = lckernels.LongEncoder(model, 20, 6).plan(70)
    learned = torch.full((plan.num_chunks, plan.chunk_len), 2.0, requires_grad=True)
    uniform = lckernels.LongEncoder(model, 20, 6, "uniform")(ids).last_hidden_state
    output = lckernels.LongEncoder(model, 20, 6, learned)(ids).last_hidden_state
    torch.testing.assert_close(output, uniform)
    output.square().sum().backward()
    assert learned.grad.abs().sum() > 0
    by_function = lckernels.LongEncoder(
        model, 20, 6, lambda plan: torch.ones(plan.num_chunks, plan.chunk_len)
    )
    torch.testing.assert_close(by_function(ids).last_hidden_state, uniform)


def test_chunks_are_merged_on_the_output_device():
    encoder = lckernels.LongEncoder(tiny(), 20, 6, output_device="meta")
    with torch.no_grad():
        assert encoder(token_ids(70)[None]).last_hidden_state.device.type == "meta"


def test_autocast_keeps_the_models_dtype():
    model = tiny()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(token_ids(30)[None]).last_hidden_state
        assert lckernels.LongEncoder(model, 20)(token_ids(30)[None]).last_hidden_state.dtype == plain.dtype


def test_progress_bar_counts_tokens(capsys):
    with torch.no_grad():
        lckernels.LongEncoder(tiny(), 20, 6, progress=True)(token_ids(70)[None])
    assert "LongEncoder: 100%" in capsys.readouterr().err


def test_save_and_load(tmp_path):
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6)
    encoder.save_pretrained(tmp_path)
    loaded = lckernels.LongEncoder.from_pretrained(tmp_path, chunk_len=20, overlap=6)
    assert not loaded.training
    with torch.no_grad():
        again = loaded(token_ids(70)[None]).last_hidden_state
        assert torch.equal(again, encoder(token_ids(70)[None]).last_hidden_state)


def test_explain_before_a_run():
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6)
    said = encoder.explain([70, 10])
    # Content 68 in chunks of 18 that begin every 12 tokens: 0, 12, 24, 36, 48, 50.
    assert (said.num_chunks, said.halo, said.exact) == (7, 3, False)
    assert said.recompute_factor == (6 * 20 + 10) / 80
    assert said.output_bytes == 80 * 16 * 4
    assert said.buffer_bytes == 7 * 20 * 16 * 4
    flops = {n: 2 * (8 * n * 16**2 + 4 * n**2 * 16 + 4 * n * 16 * 24) for n in (20, 10, 70)}
    assert said.flops == 6 * flops[20] + flops[10]
    assert said.flops_one_piece == flops[70] + flops[10]
    assert lckernels.LongEncoder(model, chunk_len=20, overlap=6).explain([70, 10]) == said
    assert "approximate" in str(said)
    one = encoder.explain(20)
    assert one.exact
    assert "none needed" in str(one)


@pytest.mark.parametrize("family", FAMILIES)
def test_explain_reads_the_sizes_of_each_family(family):
    said = lckernels.LongEncoder(tiny(family)).explain(32)
    assert said.flops == 2 * (8 * 32 * 16**2 + 4 * 32**2 * 16 + 4 * 32 * 16 * 24)
    assert said.exact
