"""late_chunks against plain loops; spans over a chunk's edge; several texts; default passages; coverage."""

import pytest
import torch
from helpers.late import late_by_loop, tokens_by_chunk
from helpers.tiny_bert import save_tiny_bert, save_tiny_xlmr, tiny_text
from helpers.tiny_decoder import byte_tokenizer

import lckernels
from lckernels.passages import split_passages
from lckernels.tasks import late_chunks

transformers = pytest.importorskip("transformers")

TEXT = tiny_text(30)
CHUNK_LEN, OVERLAP = 32, 9
# Of words, over the edges of several chunks, one in another, and not in order.
SPANS = [(300, 421), (0, 5), (7, 60), (10, 30), (len(TEXT) - 40, len(TEXT)), (150, 151), (90, 350)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture
def model(folder):
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.fixture
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def bare(model, tokenizer):
    return late_chunks(model, tokenizer, TEXT, SPANS, overlap=OVERLAP)


def long_encoder(model, tokenizer):
    return late_chunks(lckernels.LongEncoder(model, overlap=OVERLAP), tokenizer, TEXT, torch.tensor(SPANS))


def lengthened(model, tokenizer):
    with lckernels.lengthened(model, tokenizer, overlap=OVERLAP):
        return late_chunks(model, tokenizer, TEXT, SPANS)


def patched(model, tokenizer):
    with lckernels.patched(model):
        return late_chunks(model, tokenizer, TEXT, SPANS, overlap=OVERLAP)


@pytest.mark.parametrize("way", [bare, long_encoder, lengthened, patched])
def test_is_that_of_plain_loops(way, model, tokenizer):
    found = way(model, tokenizer)
    expected = late_by_loop(model, tokenizer, TEXT, SPANS, CHUNK_LEN, OVERLAP)
    torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=2e-6)
    assert found.embeddings.dtype == torch.float32 and not found.embeddings.requires_grad
    assert found.spans == SPANS
    num_tokens = len(tokenizer(TEXT, verbose=False)["input_ids"]) - 2
    chunks = tokens_by_chunk(num_tokens, CHUNK_LEN, OVERLAP)
    assert (found.num_tokens, found.num_chunks, found.coverage) == (num_tokens, len(chunks), 1.0)


def test_a_span_over_a_chunks_edge_has_states_of_both_chunks(model, tokenizer):
    """Against the chunks read one by one, without overlap: neither contains the whole span."""
    offsets = tokenizer(TEXT, return_offsets_mapping=True, verbose=False)["offset_mapping"][1:-1]
    edge = CHUNK_LEN - 2
    span = (offsets[edge - 3][0], offsets[edge + 2][1])
    first = late_chunks(model, tokenizer, TEXT[: offsets[edge - 1][1]], [(span[0], offsets[edge - 1][1])])
    found = late_chunks(model, tokenizer, TEXT, [span, (span[0], offsets[edge - 1][1])], overlap=OVERLAP)
    expected = late_by_loop(model, tokenizer, TEXT, [span], CHUNK_LEN, OVERLAP)
    torch.testing.assert_close(found.embeddings[:1], expected, rtol=0, atol=2e-6)
    # The first half of the span: in the merged states it depends on the text behind the edge too.
    assert (first.embeddings[0] @ found.embeddings[1]).item() < 0.999


def test_an_embedding_depends_on_the_text_on_both_sides(model, tokenizer):
    words = TEXT.split()[:16]
    behind, before = [*words[:12], "x", *words[13:]], ["x", *words[1:]]
    texts = [" ".join(some) for some in (words, before, behind, words[5:9])]
    inner = texts[3]
    spans = [[(start := text.index(inner), start + len(inner))] for text in texts]
    assert len({*texts}) == 4
    of_texts = late_chunks(model, tokenizer, texts, spans)
    rows = torch.cat([one.embeddings for one in of_texts])
    differences = (rows[1:] - rows[0]).abs().amax(1)
    assert (differences > 1e-3).all()


def test_several_texts_are_each_as_alone(model, tokenizer):
    texts = [TEXT, "river", TEXT[50:200], "", TEXT[:90], "garden. letter"]
    spans = [SPANS, [(0, 5)], [(3, 20), (1, 9)], [], [(0, 90)], [(0, 7), (8, 14)]]
    found = late_chunks(model, tokenizer, texts, spans)
    assert len(found) == len(texts)
    for one, text, of_text in zip(found, texts, spans, strict=True):
        alone = late_chunks(model, tokenizer, text, of_text)
        torch.testing.assert_close(one.embeddings, alone.embeddings, rtol=0, atol=2e-6)
        assert one.spans == alone.spans == of_text
        assert (one.num_tokens, one.num_chunks) == (alone.num_tokens, alone.num_chunks)
    assert found[3].embeddings.shape == (0, 16)
    assert (found[3].num_tokens, found[3].num_chunks, found[3].coverage) == (0, 0, 1.0)
    assert late_chunks(model, tokenizer, [], []) == []


def test_a_text_without_spans_is_read(model, tokenizer):
    found = late_chunks(model, tokenizer, TEXT, [])
    assert found.embeddings.shape == (0, 16) and found.num_chunks > 1


def test_white_space_and_parts_of_a_word(model, tokenizer):
    text = "river  mountain\n winter"
    pairs = [(0, 7), (0, 5), (5, 16), (7, 15), (3, 4), (3, 9), (0, 15)]
    rows = late_chunks(model, tokenizer, text, pairs).embeddings
    for same in ((0, 1), (2, 3), (1, 4), (5, 6)):
        torch.testing.assert_close(rows[same[0]], rows[same[1]])
    assert (rows[1] @ rows[3]).item() < 0.999


def test_the_default_is_passages_of_whole_sentences(model, tokenizer):
    found = late_chunks(model, tokenizer, TEXT, passage_tokens=20)
    encoding = tokenizer(TEXT, return_offsets_mapping=True, verbose=False)
    offsets = torch.tensor(encoding["offset_mapping"][1:-1])
    passages = split_passages(TEXT, offsets, "en", 20)
    assert found.spans == [tuple(pair) for pair in passages.chars.tolist()] and len(found.spans) > 5
    torch.testing.assert_close(
        found.embeddings, late_chunks(model, tokenizer, TEXT, found.spans).embeddings, rtol=0, atol=1e-6
    )
    both = late_chunks(model, tokenizer, [TEXT, ""], passage_tokens=20)
    assert (both[0].spans, both[1].spans) == (found.spans, [])


def test_a_prefix_is_read_by_every_chunk(model, tokenizer):
    ids = tokenizer("garden letter", add_special_tokens=False)["input_ids"]
    rows = [
        late_chunks(model, tokenizer, TEXT, SPANS, prefix=prefix).embeddings
        for prefix in ("garden letter", ids, None)
    ]
    assert torch.equal(rows[0], rows[1]) and (rows[0] - rows[2]).abs().max() > 1e-3
    lckernels.lengthen(model, tokenizer, prefix="garden letter", overlap=(32 - 4) // 4)
    torch.testing.assert_close(late_chunks(model, tokenizer, TEXT, SPANS).embeddings, rows[0])


def test_white_space_at_the_end_of_a_prefix_is_no_token():
    config = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.BertConfig(**config, intermediate_size=16, max_position_embeddings=64)
    model, tokenizer = transformers.BertModel(config).eval(), byte_tokenizer()
    assert len(tokenizer("document: ", add_special_tokens=False)["input_ids"]) == 10
    rows = [
        late_chunks(model, tokenizer, TEXT, SPANS, prefix=prefix).embeddings
        for prefix in ("document: ", "document:")
    ]
    assert torch.equal(*rows)
    with lckernels.lengthened(model, tokenizer, prefix="document: "):
        torch.testing.assert_close(late_chunks(model, tokenizer, TEXT, SPANS).embeddings, rows[0])


def test_chunks_of_whole_sentences(model, tokenizer):
    from lckernels.sentences import sentence_boundaries, token_boundaries

    encoder = lckernels.LongEncoder(model, weights="crop", boundaries="sentence")
    inputs = tokenizer(TEXT, return_offsets_mapping=True, return_tensors="pt", verbose=False)
    offsets = inputs.pop("offset_mapping")[0]
    cuts = token_boundaries(offsets, sentence_boundaries(TEXT))
    with torch.no_grad():
        states = encoder(inputs["input_ids"], sentence_boundaries=[cuts]).last_hidden_state[0]
    inside = (offsets[:, 0] < 421) & (offsets[:, 1] > 300)
    found = late_chunks(encoder, tokenizer, TEXT, [(300, 421)], normalize=False)
    torch.testing.assert_close(found.embeddings[0], states[inside].mean(0), rtol=0, atol=2e-6)


def test_length_and_dtype(model, tokenizer):
    plain = late_chunks(model, tokenizer, TEXT, SPANS, normalize=False).embeddings
    unit = late_chunks(model, tokenizer, TEXT, SPANS).embeddings
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(SPANS)))
    torch.testing.assert_close(plain / plain.norm(dim=1, keepdim=True), unit)
    assert (plain.norm(dim=1) - 1).abs().min() > 0.1
    for dtype, result in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert late_chunks(model.to(dtype), tokenizer, TEXT, SPANS).embeddings.dtype == result


def test_a_tokenizer_that_truncates_and_pads_does_not(model, tokenizer):
    expected = late_chunks(model, tokenizer, TEXT, SPANS)
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.model_max_length = 16
    found = late_chunks(model, tokenizer, TEXT, SPANS)
    assert torch.equal(found.embeddings, expected.embeddings) and found.coverage == 1.0


def test_coverage_counts_dropped_characters(model, tokenizer):
    text = "river \u0001\u0002 garden\u0003."  # BERT drops control characters
    found = late_chunks(model, tokenizer, text, [(0, 5), (6, 15)])
    assert found.coverage == pytest.approx(12 / 15)
    assert late_chunks(model, tokenizer, "\u0001 \u0002", []).coverage == 0.0


def test_characters_of_several_tokens():
    """A token for each byte: the four of an emoji belong to a span of that character alone."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=260, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=34, pad_token_id=3, bos_token_id=0, eos_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    model, tokenizer = transformers.RobertaModel(config).eval(), byte_tokenizer()
    text = "ab 😀 cd " * 12
    with torch.no_grad():
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states = lckernels.LongEncoder(model)(ids).last_hidden_state[0, 1:-1]
    found = late_chunks(model, tokenizer, text, [(3, 4), (2, 5), (0, 2)], normalize=False).embeddings
    torch.testing.assert_close(found[0], states[3:7].mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], states[:2].mean(0), rtol=0, atol=1e-6)


def test_unigram_pieces(tmp_path):
    folder = save_tiny_xlmr(tmp_path / "xlmr")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = TEXT.lower().replace("\n\n", " </s> ")
    spans = [(0, 30), (200, 400)]
    found = late_chunks(model, tokenizer, text, spans)
    assert found.coverage == 1.0 and found.num_chunks > 5
    assert found.embeddings.isfinite().all()
