"""`lengthen(joints=)`: marker rows between the states of neighbouring chunks, and the mask of the decoder."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import tiny
from helpers.seq2seq import (
    CHUNK,
    LABELS,
    SPECIAL,
    VOCAB,
    batch,
    build,
    encoder_outputs,
    lengthened_and_plain,
    loop_states,
    row,
)

import lckernels
from lckernels.inner_forward import INNER
from lckernels.long.chunking import chunk_documents
from lckernels.long.seams import SeamCounts, SeamRule, seams
from lckernels.long.sizes import Chunking

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning"),
]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # the largest difference of a logit is 3.8e-6 of 15, measured
VECTOR = torch.randn(16, generator=torch.Generator().manual_seed(2))
LENGTHS = 90, 41, 15  # 5 or 4, 2 and 1 chunks
TOKEN = 7
STEPS = {"max_new_tokens": 5, "min_new_tokens": 5}


def rows_of(name, lengths=LENGTHS, prefix=()):
    return [row(length, SPECIAL[name], prefix=prefix) for length in lengths]


def expected_inputs(plain, name, rows, joint, **options):
    states = [loop_states(plain.get_encoder(), ids, SPECIAL[name], joint=joint, **options) for ids in rows]
    assert len(states[0]) > len(rows[0])
    return encoder_outputs(states)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("joint", [TOKEN, VECTOR], ids=["token", "vector"])
@pytest.mark.parametrize("name", SPECIAL)
def test_a_row_at_each_seam(name, joint, side):
    model, plain, report = lengthened_and_plain(name, joints=joint)
    assert ("token 7" if joint is TOKEN else "a given vector") in report.joints
    assert report.joints in str(report)
    table = plain.get_encoder().get_input_embeddings()
    rows = rows_of(name)
    with torch.no_grad():
        vector = table(torch.tensor(TOKEN)) if joint is TOKEN else joint
        given = expected_inputs(plain, name, rows, vector)
        output, expected = model(**batch(rows, side), labels=LABELS), plain(**given, labels=LABELS)
        torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
        given["attention_mask"] = torch.ones_like(given["attention_mask"])
        assert (plain(**given, labels=LABELS).logits - expected.logits).abs().max() > 1e-3


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}])
@pytest.mark.parametrize("name", ["t5", "bart", "t5gemma", "bert2bert"])
def test_generate(name, mode):
    model, plain, _ = lengthened_and_plain(name, joints=VECTOR)
    rows = rows_of(name)
    inputs = batch(rows)
    with torch.no_grad():
        states = model.get_encoder()(**inputs)
        precomputed = {"encoder_outputs": states, "attention_mask": inputs["attention_mask"]}
        given = (inputs, precomputed, expected_inputs(plain, name, rows, VECTOR))
        sequences = []
        for of_model, kwargs in zip((model, model, plain), given, strict=True):
            torch.manual_seed(0)
            sequences.append(of_model.generate(**kwargs, **mode, **STEPS))
    assert torch.equal(sequences[0], sequences[2])
    assert torch.equal(sequences[1], sequences[2])


def test_without_a_mask_each_row_is_whole():
    model, plain, _ = lengthened_and_plain("t5", joints=VECTOR)
    ids = torch.stack([row(90, (0, 1), seed) for seed in (1, 2)])
    given = expected_inputs(plain, "t5", list(ids), VECTOR)
    with torch.no_grad():
        for mask in (None, torch.ones_like(ids)):
            output = model(input_ids=ids, attention_mask=mask, labels=LABELS[:2])
            expected = plain(encoder_outputs=given["encoder_outputs"], labels=LABELS[:2])
            torch.testing.assert_close(output.logits, expected.logits, **CLOSE)


def test_rows_of_one_chunk_have_no_joint():
    model, plain, _ = lengthened_and_plain("bart", joints=TOKEN)
    for lengths in ((CHUNK, 9), (CHUNK,)):
        inputs = batch(rows_of("bart", lengths))
        with torch.no_grad():
            output, expected = (x(**inputs, labels=LABELS[: len(lengths)]) for x in (model, plain))
        assert torch.equal(output.logits, expected.logits)
    padded = batch(rows_of("bart", (9, CHUNK, 40)))
    short = {name: x[:2] for name, x in padded.items()}  # 40 columns, and no row of more than a chunk
    with torch.no_grad():
        assert model(**short, labels=LABELS[:2]).encoder_last_hidden_state.shape[1] == 40


def test_a_vector_can_be_trained():
    vector = torch.nn.Parameter(VECTOR.clone())
    model, plain, _ = lengthened_and_plain("t5", joints=vector)
    rows = rows_of("t5")
    model(**batch(rows), labels=LABELS).loss.backward()
    own = VECTOR.clone().requires_grad_()
    plain(**expected_inputs(plain, "t5", rows, own), labels=LABELS).loss.backward()
    torch.testing.assert_close(vector.grad, own.grad)
    gradients = [x.get_input_embeddings().weight.grad for x in (model, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4 * gradients[1].abs().max().item())


def test_the_states_of_all_layers_have_joints():
    model, _, _ = lengthened_and_plain("t5", joints=VECTOR)
    with torch.no_grad():
        output = model.get_encoder()(**batch(rows_of("t5")), output_hidden_states=True)
    assert {x.shape[1] for x in (output.last_hidden_state, *output.hidden_states)} == {94}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("patched", ["before", "after", "never"])
def test_copies_and_patch(copied, patched):
    model = build("t5")
    before = [dict(x.__dict__) for x in (model.get_encoder(), model.get_decoder())]
    inputs = {**batch(rows_of("t5")), "labels": LABELS}
    if patched == "before":
        lckernels.patch(model)
    lckernels.lengthen(model, chunk_len=CHUNK, special_tokens=(0, 1), joints=VECTOR)
    with torch.no_grad():
        expected = model(**inputs).logits
        if patched == "after":
            lckernels.patch(model)
            torch.testing.assert_close(model(**inputs).logits, expected, **CLOSE)
        other = copied(model)
        other.get_decoder().forward.joints.marker.zero_()
        changed = other(**inputs).logits
        torch.testing.assert_close(model(**inputs).logits, expected, **CLOSE)
        assert (changed - expected).abs().max() > 1e-3
        assert other.get_decoder().forward.module is other.get_decoder()
    if patched != "never":
        lckernels.unpatch(model)
    lckernels.unlengthen(model)
    assert INNER not in model.get_decoder().__dict__
    assert [dict(x.__dict__) for x in (model.get_encoder(), model.get_decoder())] == before


@pytest.mark.parametrize("begins", [True, False])
def test_a_fixed_prefix(begins):
    """The number of joints differs between rows that contain the prefix and rows that do not."""
    prefix = [20, 21, 22, 23, 24, 25]
    model, plain, _ = lengthened_and_plain("t5", joints=VECTOR, prefix=prefix)
    # 70 tokens have 4 joints in both cases, 24 tokens one joint only where the prefix is dropped.
    for lengths, columns in (((90, 41), (96, 96)), ((70, 24), (74, 75)), ((62, 41, 25), (65, 66))):
        rows = rows_of("t5", lengths, prefix if begins else ())
        options = {"lead": len(prefix)} if begins else {"prefix": prefix}
        given = expected_inputs(plain, "t5", rows, VECTOR, **options)
        with torch.no_grad():
            output = model(**batch(rows), labels=LABELS[: len(rows)])
            expected = plain(**given, labels=LABELS[: len(rows)])
        torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
        assert output.encoder_last_hidden_state.shape[1] == columns[0 if begins else 1]


def pairs(lengths, leads):
    rows = rows_of("bart", lengths)
    for ids, lead in zip(rows, leads, strict=True):
        ids[lead - 2 : lead] = 1
    return rows


def test_rows_of_two_segments():
    """One row, or rows of which each has the joints that its length gives, are supported; others raise."""
    model, plain, _ = lengthened_and_plain("bart", joints=VECTOR)
    for lengths, leads in (((90,), (9,)), ((90, 90), (9, 9)), ((60, 15), (4, 5))):
        rows = pairs(lengths, leads)
        states = [
            loop_states(plain.get_encoder(), ids, SPECIAL["bart"], joint=VECTOR, lead=lead)
            for ids, lead in zip(rows, leads, strict=True)
        ]
        with torch.no_grad():
            output = model(**batch(rows), labels=LABELS[: len(rows)])
            expected = plain(**encoder_outputs(states), labels=LABELS[: len(rows)])
        torch.testing.assert_close(output.logits, expected.logits, **CLOSE)
    for lengths in ((90, 41), (90, 90)):
        with pytest.raises(ValueError, match=r"joints: got \d+ seams in row \d, whose length gives"):
            model(**batch(pairs(lengths, (9, 4))), labels=LABELS[:2])


OVERLAPS = [(0, True), (1, True), (7, True), (10, False)]


@pytest.mark.parametrize("rule", ["sled", "max_context"])
@pytest.mark.parametrize(("overlap", "given"), OVERLAPS)
@pytest.mark.parametrize("special", [(0, 0, 0), (1, 1, 0), (0, 2, 3)])
def test_the_seams_of_a_length(rule, overlap, given, special):
    """The number by formula is that of the plan, and each seam is where the planner's keep ranges meet."""
    leading, trailing, prefix = special
    chunking = Chunking(16, min(overlap, 10), rule, leading, trailing, prefix, given)
    lengths = torch.arange(leading + trailing + 1, 140)
    lengths = lengths[torch.randperm(len(lengths))]
    first = torch.cumsum(lengths, 0) - lengths
    chunks = chunk_documents(first, lengths, int(lengths.sum()), chunking)
    positions, documents = seams(chunks)
    counts = SeamCounts(chunking, leading).of(lengths)
    assert torch.equal(torch.bincount(documents, minlength=len(lengths)), counts)
    room = 16 - sum(special)
    shared = chunking.overlap if given else room // 4
    for document, length in enumerate(lengths.tolist()):
        plan = lckernels.plan_chunks(length - leading - trailing, room, shared, rule=rule)
        ends = [start + keep_end for _, _, start, _, _, keep_end, *_ in plan.segments.tolist()[:-1]]
        found = positions[documents == document] - first[document] - leading
        assert found.tolist() == ends


def test_the_mask_gives_the_number_of_joints_of_each_row():
    """For batches of random lengths, with the prefix and without."""
    generator = torch.Generator().manual_seed(0)
    lead, dropped = Chunking(16, 3, "sled", 1, 1, 0, True), Chunking(16, 3, "sled", 1, 1, 4, True)
    rule = SeamRule(SeamCounts(lead, 5), SeamCounts(dropped, 1))
    differ = 0
    for _ in range(300):
        lengths = torch.randint(6, 60, (3,), generator=generator)
        counts = [of_rows.of(lengths) for of_rows in (rule.counts, rule.dropped)]
        differ += not torch.equal(*counts)
        for found in counts:
            assert torch.equal(rule.of_batch(lengths, rule.added(found, lengths)), found)
    assert differ > 100


def test_unlengthen_of_the_encoder_alone():
    model, _, _ = lengthened_and_plain("t5", joints=TOKEN)
    lckernels.unlengthen(model.get_encoder())
    assert not any({"forward", INNER} & {*vars(module)} for module in model.modules())
    encoder = copy.deepcopy(lengthened_and_plain("t5", joints=TOKEN)[0].get_encoder())
    lckernels.unlengthen(encoder)  # without a decoder
    assert not {"forward", INNER} & {*vars(encoder)}


def test_errors():
    with pytest.raises(ValueError, match="joints: got BertModel, which no decoder reads; expected None"):
        lckernels.lengthen(tiny(), joints=3)
    with pytest.raises(ValueError, match=f"joints: got {VOCAB}; the embedding of T5Stack has the ids 0 to"):
        lckernels.lengthen(build("t5"), chunk_len=CHUNK, special_tokens=(0, 1), joints=VOCAB)
    with pytest.raises(TypeError, match=r"joints: got '<sep>'; expected an int >= 0 or a tensor \(16,\)"):
        lckernels.lengthen(build("t5"), chunk_len=CHUNK, special_tokens=(0, 1), joints="<sep>")
    for wrong in (torch.ones(15), torch.ones(1, 16), torch.ones(16, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"joints: got shape .* expected \(16,\) floating point"):
            lckernels.lengthen(build("t5"), chunk_len=CHUNK, special_tokens=(0, 1), joints=wrong)
    model, _, _ = lengthened_and_plain("t5", joints=TOKEN)
    states = torch.zeros(2, 94, 16)
    mask = batch(rows_of("t5", (60, 41)))["attention_mask"]
    with pytest.raises(ValueError, match="attention_mask: got 60 columns for 94 states, joints included"):
        model.get_decoder()(input_ids=LABELS[:2], encoder_hidden_states=states, encoder_attention_mask=mask)
