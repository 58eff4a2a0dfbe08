"""process_long_input: merged states, and rows of attention against plain loops; ATLOP's own use of them."""

import pytest
import torch
from helpers.encoder_models import CLS, SEP, pad, tiny, token_ids
from helpers.live_bytes import LiveBytes
from helpers.merged_by_hand import chunk_starts

import lckernels
from lckernels.tasks import process_long_input

CHUNK = 32
ROOM = CHUNK - 2
OVERLAP = ROOM // 4


def attention_by_hand(model, ids):
    """(heads, seqlen, seqlen) of a row with a special token at each end: the dense matrix, chunk by chunk."""
    own, n = model.config._attn_implementation, len(ids)
    if own != "eager":  # MPNet has no other
        model.set_attn_implementation("eager")
    starts = chunk_starts(n - 2, ROOM, OVERLAP)
    total, weights = torch.zeros(2, n, n), torch.zeros(n, 1)
    for c, start in enumerate(starts):
        width = min(ROOM, n - 2 - start)
        columns = torch.tensor([0, *range(1 + start, 1 + start + width), n - 1])
        with torch.no_grad():
            weight = model(input_ids=ids[columns][None], output_attentions=True).attentions[-1][0]
        u = torch.arange(width)
        left = u + 1 if c else torch.full_like(u, width)
        right = width - u if c < len(starts) - 1 else torch.full_like(u, width)
        a = torch.cat(
            [torch.tensor([c == 0]), torch.minimum(left, right), torch.tensor([c == len(starts) - 1])]
        )
        for i, row in enumerate(columns):
            total[:, row, columns] += a[i] * weight[:, i]
            weights[row] += a[i]
    if own != "eager":
        model.set_attn_implementation(own)
    return total / weights


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("length", [20, 32, 33, 100])
def test_states_and_rows_of_attention(family, length):
    model, ids = tiny(family), token_ids(length)
    implementation = model.config._attn_implementation
    states, attention = process_long_input(model, ids[None], torch.ones(1, length), [CLS], [SEP])
    with torch.no_grad():
        expected = lckernels.LongEncoder(model)(input_ids=ids[None]).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        rows = attention.rows(0, range(length))
    assert attention.shape == attention.size() == (1, 2, length, length) and attention.size(3) == length
    torch.testing.assert_close(rows.sum(-1), torch.ones(length, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(attention[0, :, 7], rows[7])
    assert model.config._attn_implementation == implementation
    torch.testing.assert_close(rows.transpose(0, 1), attention_by_hand(model, ids), rtol=0, atol=1e-6)


def get_hrt(sequence_output, attention, entity_pos, hts, offset=1):
    """As ATLOP uses the two results, in its own terms: head, localized context, tail of one row."""
    c = attention.size()[-1]
    entity_embs, entity_atts = [], []
    for mentions in entity_pos:
        embs = [sequence_output[0, start + offset] for start, _ in mentions if start + offset < c]
        atts = [attention[0, :, start + offset] for start, _ in mentions if start + offset < c]
        entity_embs.append(torch.logsumexp(torch.stack(embs, dim=0), dim=0))
        entity_atts.append(torch.stack(atts, dim=0).mean(0))
    entity_embs, entity_atts = torch.stack(entity_embs, dim=0), torch.stack(entity_atts, dim=0)
    hts = torch.tensor(hts)
    ht_att = (entity_atts[hts[:, 0]] * entity_atts[hts[:, 1]]).mean(1)
    ht_att = ht_att / (ht_att.sum(1, keepdim=True) + 1e-5)
    return entity_embs[hts[:, 0]], ht_att @ sequence_output[0], entity_embs[hts[:, 1]]


def test_atlop_uses_them_as_it_did():
    """Its localized context equals that of the dense matrix; gradients reach the encoder through it."""
    model, ids = tiny(), token_ids(120)
    entities, pairs = [[(3, 5), (90, 91)], [(10, 11)], [(100, 101), (50, 52)]], [(0, 1), (1, 2), (2, 0)]
    dense = attention_by_hand(model, ids)[None]
    states, attention = process_long_input(model, ids[None], torch.ones(1, 120), [CLS], [SEP])
    found = get_hrt(states, attention, entities, pairs)
    expected = get_hrt(states, dense, entities, pairs)
    for name, x, y in zip(("head", "context", "tail"), found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    query = model.encoder.layer[-1].attention.self.query.weight
    (through_rows,) = torch.autograd.grad(attention[0, :, 60].square().sum(), query)
    assert through_rows.abs().max() > 0


def test_distant_entities_share_no_context_but_special_tokens():
    model, ids = tiny(), token_ids(200)
    _, attention = process_long_input(model, ids[None], torch.ones(1, 200), [CLS], [SEP])
    head, tail = attention.rows(0, [5, 190])
    product = head * tail
    assert (product[:, [0, 199]] > 0).all() and (product[:, 1:199] == 0).all()


def test_padded_rows_of_a_batch():
    model, rows = tiny(), [token_ids(90), token_ids(25), token_ids(40)]
    ids, mask = pad(rows, "right")
    states, attention = process_long_input(model, ids, mask.float(), torch.tensor([CLS]), torch.tensor([SEP]))
    for i, row in enumerate(rows):
        n = len(row)
        alone, of_row = process_long_input(model, row[None], torch.ones(1, n), [CLS], [SEP])
        torch.testing.assert_close(states[i, :n], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(attention[i, :, 20][:, :n], of_row[0, :, 20])
        assert (attention[i, :, 20][:, n:] == 0).all()
    assert (attention[1, :, 60] == 0).all()  # padding


def test_two_end_tokens():
    """ATLOP passes two for RoBERTa, whose rows end with one."""
    model, ids = tiny("roberta"), token_ids(80)
    expected, _ = process_long_input(model, ids[None], torch.ones(1, 80), [CLS], [SEP])
    found, _ = process_long_input(model, ids[None], torch.ones(1, 80), [CLS], [SEP, SEP])
    assert torch.equal(found, expected)
    both = torch.cat([ids, ids[-1:]])
    found, _ = process_long_input(model, both[None], torch.ones(1, 81), [CLS], [SEP, SEP])
    encoder = lckernels.LongEncoder(model, special_tokens=(1, 2))
    with torch.no_grad():
        torch.testing.assert_close(found, encoder(input_ids=both[None]).last_hidden_state)
    assert torch.equal(
        process_long_input(encoder, both[None], torch.ones(1, 81), [CLS], [SEP, SEP])[0], found
    )


def test_no_square_matrix():
    """2 * 6,000^2 numbers would be 288 MB."""
    model, ids = tiny(), token_ids(6000)[None]
    with LiveBytes() as live, torch.no_grad():
        _, attention = process_long_input(model, ids, torch.ones(1, 6000), [CLS], [SEP])
        attention.rows(0, [10, 3000, 5900])
    assert 2**19 < live.peak < 2**24


def test_bad_input():
    model, ids, mask = tiny(), token_ids(40)[None], torch.ones(1, 40)
    for arguments, message in [
        ((ids[0], mask, [CLS], [SEP]), r"^input_ids: got shape \(40,\); expected 2 dimensions"),
        ((ids, mask[:, 1:], [CLS], [SEP]), r"^attention_mask: got shape \(1, 39\); expected \(1, 40\)"),
        ((ids, mask, [9], [SEP]), r"^input_ids\[0\]: got \[3, .*; expected \[9\] first, padding last"),
        ((ids, mask, [CLS], [CLS]), r"^input_ids: got rows with \[0\] of end_tokens at their end"),
        ((ids, mask.flip(1).cumsum(1) > 3, [CLS], [SEP]), r"^input_ids\[0\]: got .*, padding last"),
    ]:
        with pytest.raises(ValueError, match=message):
            process_long_input(model, *arguments)
    encoder = lckernels.LongEncoder(model, special_tokens=(1, 1), prefix=[7])
    with pytest.raises(ValueError, match=r"^model: got a LongEncoder with a prefix"):
        process_long_input(encoder, ids, mask, [CLS], [SEP])
    _, attention = process_long_input(model, ids, mask, [CLS], [SEP])
    with pytest.raises(IndexError, match=r"expected attention\[row, :, token\]"):
        attention[0]
    with pytest.raises(ValueError, match=r"^tokens: got row 0, tokens \[40\]; expected rows below 1, tokens"):
        attention[0, :, 40]
