"""explain(measure=True): the error on given tokens, against a run without chunks."""

import pytest
import torch
from helpers.encoder_models import chunk_by_chunk, pad, tiny, token_ids
from helpers.tiny_bert import save_tiny_bert
from helpers.windowed_encoders import modernbert

import lckernels.long.memory
from lckernels import LongEncoder
from lckernels.long.text_encoder import TextEncoder

POSITIONS = 32


def expected_errors(model, ids, chunk_len, overlap, **options):
    """Error and cosine distance of each token of one row, chunk by chunk, in fp64."""
    with torch.no_grad():
        whole = model(ids[None]).last_hidden_state[0].double()
        chunked = chunk_by_chunk(model, ids, chunk_len, overlap, **options).double()
    error = (chunked - whole).pow(2).sum(1).sqrt() / whole.pow(2).sum(1).sqrt()
    cosine = (chunked * whole).sum(1) / chunked.pow(2).sum(1).sqrt() / whole.pow(2).sum(1).sqrt()
    return error, 1 - cosine


def assert_measured(measured, errors, distances, columns=None):
    errors, distances = torch.cat(errors), torch.cat(distances)
    assert measured.num_tokens == len(errors)
    assert measured.mean_error == pytest.approx(float(errors.mean()), rel=1e-4)
    assert measured.max_error == pytest.approx(float(errors.max()), rel=1e-4)
    assert measured.mean_cosine_distance == pytest.approx(float(distances.mean()), rel=1e-4)
    assert measured.worst[0][2] == measured.max_error
    if columns is not None:
        assert measured.worst[0][1] == columns[int(errors.argmax())]
    assert [error for _, _, error in measured.worst] == sorted(
        (error for _, _, error in measured.worst), reverse=True
    )


@pytest.mark.parametrize("weights", ["triangular", "crop"])
def test_a_row_that_the_model_reads_in_one_piece(weights):
    model, ids = tiny(), token_ids(POSITIONS)
    explained = LongEncoder(model, 14, 4, weights).explain(input_ids=ids[None], measure=True)
    errors, distances = expected_errors(model, ids, 14, 4, weights=weights)
    assert errors.mean() > 0.01
    assert_measured(explained.measured, [errors], [distances], range(POSITIONS))
    measured = explained.measured
    assert (measured.whole, measured.own_chunks, measured.num_pieces) == (True, True, 1)
    assert f"mean error {measured.mean_error:.3g}, mean cosine distance" in str(explained)
    assert "chunks of 14, overlap 4, against 1 whole row of up to 32 tokens" in str(explained)
    assert f"worst        {measured.max_error:.3g} (row 0, column {measured.worst[0][1]})" in str(explained)


class _Uniform(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, plan):
        return self.scale.expand(plan.num_chunks, plan.chunk_len)


def test_weights_of_a_module():
    model, ids, weights = tiny(), token_ids(POSITIONS)[None], _Uniform()
    encoder = LongEncoder(model, 14, 4, weights)
    measured = encoder.explain(input_ids=ids, measure=True).measured
    expected = LongEncoder(model, 14, 4, "uniform").explain(input_ids=ids, measure=True).measured
    assert measured.mean_error == pytest.approx(expected.mean_error, rel=1e-5)
    assert encoder.weights is weights
    assert "weights.scale" in encoder.state_dict()


def test_a_longer_row_is_measured_in_pieces():
    model, ids = tiny(), token_ids(200)
    measured = LongEncoder(model, 14, 4).explain(input_ids=[ids.tolist()], measure=True).measured
    content, room = ids[1:-1], POSITIONS - 2
    begins = [i * (198 - room) // 5 for i in range(6)]  # 198 // 30 pieces
    pieces = [torch.cat([ids[:1], content[begin : begin + room], ids[-1:]]) for begin in begins]
    found = [expected_errors(model, piece, 14, 4) for piece in pieces]
    columns = [
        column
        for begin in begins
        for column in (0, *(begin + 1 + i for i in range(room)), 199)
    ]  # fmt: skip
    assert_measured(measured, *zip(*found, strict=True), columns)
    assert (measured.whole, measured.num_pieces, measured.piece_len) == (False, 6, POSITIONS)
    assert (measured.chunk_len, measured.overlap, measured.own_chunks) == (14, 4, True)


def test_shorter_chunks_where_a_piece_is_less_than_two():
    model, ids = tiny(), token_ids(100)
    encoder = LongEncoder(model, overlap=15)
    explained = encoder.explain(input_ids=ids[None], measure=True)
    measured = explained.measured
    assert (measured.chunk_len, measured.overlap, measured.own_chunks) == (16, 7, False)
    content, room = ids[1:-1], POSITIONS - 2
    begins = [i * (98 - room) // 2 for i in range(3)]
    pieces = [torch.cat([ids[:1], content[begin : begin + room], ids[-1:]]) for begin in begins]
    found = [expected_errors(model, piece, 16, 7) for piece in pieces]
    assert_measured(measured, *zip(*found, strict=True))
    assert "an indication only: such a piece is less than two chunks of the encoder" in str(explained)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch(side):
    model = tiny()
    rows = [token_ids(length) for length in (31, 9, 27, 14)]
    ids, mask = pad(rows, side)
    encoder = LongEncoder(model, 14, 4)
    measured = encoder.explain(input_ids=ids, attention_mask=mask, measure=True).measured
    found = {row: expected_errors(model, rows[row], 14, 4) for row in (0, 2)}  # longer than a chunk
    assert_measured(measured, *zip(*found.values(), strict=True))
    row, column, error = measured.worst[0]
    padding = 0 if side == "right" else 31 - len(rows[row])
    assert error == pytest.approx(float(found[row][0][column - padding]), rel=1e-4)


def test_many_rows():
    model = tiny()
    ids = torch.stack([token_ids(30, seed) for seed in range(20)])
    measured = LongEncoder(model, 14, 4).explain(input_ids=ids, measure=True).measured
    found = [expected_errors(model, ids[int(i * 2.5)], 14, 4) for i in range(8)]
    assert_measured(measured, *zip(*found, strict=True))


def test_an_exact_halo_has_no_error_beyond_the_positions():
    model = modernbert()
    model.config.max_position_embeddings = 64
    ids = token_ids(300)[None]
    exact = LongEncoder(model, 40, halo="exact").explain(input_ids=ids, measure=True).measured
    assert (exact.whole, exact.piece_len, exact.own_chunks) == (True, 300, True)
    assert exact.max_error < 1e-12
    less = LongEncoder(model, 24, 15, "crop", special_tokens=(0, 0))
    assert less.explain(input_ids=ids[:, :60], measure=True).measured.max_error > 1e-9


def test_prefix_and_layer_merge_are_those_of_the_encoder():
    model, ids = tiny(), token_ids(28)
    measured = LongEncoder(model, 16, 4, prefix=[7, 8]).explain(input_ids=ids[None], measure=True).measured
    with torch.no_grad():
        with_prefix = torch.cat([ids[:1], torch.tensor([7, 8]), ids[1:]])
        whole = model(with_prefix[None]).last_hidden_state[0][[0, *range(3, 30)]]
        chunked = chunk_by_chunk(model, ids, 16, 4, prefix=(7, 8))
    errors = (chunked - whole).norm(dim=1) / whole.norm(dim=1)
    assert measured.mean_error == pytest.approx(float(errors.mean()), rel=1e-4)
    layer = LongEncoder(model, 16, 4, merge="layer")
    with torch.no_grad():
        states, whole = layer(ids[None]).last_hidden_state[0], model(ids[None]).last_hidden_state[0]
    errors = (states - whole).norm(dim=1) / whole.norm(dim=1)
    found = layer.explain(input_ids=ids[None], measure=True).measured
    assert found.mean_error == pytest.approx(float(errors.mean()), rel=1e-4)


def test_it_is_measured_in_eval_mode():
    model, ids = tiny(), token_ids(30)[None]
    encoder = LongEncoder(model, 14, 4)
    expected = encoder.explain(input_ids=ids, measure=True).measured
    encoder.train()
    random = torch.get_rng_state()
    assert encoder.explain(input_ids=ids, measure=True).measured == expected
    assert all(module.training for module in encoder.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert encoder.chunk_len == 14


def test_a_row_that_does_not_fit_in_memory(monkeypatch):
    model, ids = modernbert(), token_ids(300)[None]
    encoder = LongEncoder(model, 40, halo="exact", attention="lckernels")
    per_token = 8 * (6 * 16 + 2 * 24) + 3 * 8 * 16
    monkeypatch.setattr(lckernels.long.memory, "free_bytes", lambda device: 2 * 90 * per_token)
    measured = encoder.explain(input_ids=ids, measure=True).measured
    assert (measured.whole, measured.piece_len, measured.num_pieces) == (False, 90, 3)
    assert measured.max_error < 1e-12
    monkeypatch.setattr(lckernels.long.memory, "free_bytes", lambda device: 2 * 20 * per_token)
    assert "too short for two chunks" in encoder.explain(input_ids=ids, measure=True).not_measured


def test_free_memory():
    free = lckernels.long.memory.free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


@pytest.mark.parametrize(
    ("length", "options", "why"),
    [
        (14, {}, "every row is one chunk"),
        (30, {"weights": torch.ones(3, 14)}, "weights are a tensor for one plan"),
    ],
)
def test_what_is_not_measured(length, options, why):
    encoder = LongEncoder(tiny(), 14, 4, **options)
    explained = encoder.explain(input_ids=token_ids(length)[None], measure=True)
    assert explained.measured is None
    assert why in explained.not_measured
    assert f"measured     nothing: {explained.not_measured}" in str(explained)


def test_tokens_without_a_measurement():
    encoder = LongEncoder(tiny(), 14, 4)
    ids, mask = pad([token_ids(30), token_ids(20)], "right")
    explained = encoder.explain(input_ids=ids, attention_mask=mask)
    assert explained == encoder.explain([30, 20])
    assert (explained.measured, explained.not_measured) == (None, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "seqlen, input_ids: got neither; expected one of the two"),
        ({"seqlen": 5, "input_ids": [[5]]}, "seqlen, input_ids: got both"),
        ({"seqlen": 5, "measure": True}, "measure: got True; it requires input_ids"),
        ({"seqlen": 5, "attention_mask": [[1]]}, "attention_mask: got list; it requires input_ids"),
        ({"input_ids": [[3, 99, 4]]}, "input_ids: got "),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LongEncoder(tiny(), 14, 4).explain(**arguments)


def test_a_text(tmp_path):
    encoder = TextEncoder(save_tiny_bert(tmp_path / "model"), chunk_len=16, overlap=4)
    text = "one of the words. " * 20
    tokens = encoder.tokenize(text).input_ids
    expected = encoder.encoder.explain(input_ids=tokens, measure=True)
    assert encoder.explain(text, measure=True) == expected
    assert expected.measured.mean_error > 0
    assert encoder.explain(text) == encoder.encoder.explain(tokens.shape[1])
