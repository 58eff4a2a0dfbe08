"""A model trained here: a passage is found by a name beyond a chunk's edge, which its chunk alone lacks."""

import pytest
import torch
import torch.nn.functional as F

import lckernels
from lckernels.tasks import late_chunks

transformers = pytest.importorskip("transformers")

NAMES = [f"name{i}" for i in range(8)]
FILLERS = [f"word{i}" for i in range(12)]
POSITIONS, REACH, PASSAGE = 34, 10, 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMES, *FILLERS]
    return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


@pytest.fixture(scope="module")
def model(tokenizer):
    """A BERT of 34 positions: the mean of four states is near the vector of the name up to ten before."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertModel(config)
    first_name = tokenizer.convert_tokens_to_ids(NAMES[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(320):
        rows = torch.randint(first_name + len(NAMES), len(tokenizer), (64, POSITIONS), generator=generator)
        rows[:, 0], rows[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        name = torch.randint(len(NAMES), (64,), generator=generator)
        at = torch.randint(1, POSITIONS - 1 - REACH - PASSAGE, (64,), generator=generator)
        rows[torch.arange(64), at] = first_name + name
        distance = torch.randint(1, REACH, (64,), generator=generator)
        columns = (at + distance)[:, None] + torch.arange(PASSAGE)
        states = model(input_ids=rows).last_hidden_state
        means = states.gather(1, columns[..., None].expand(-1, -1, 32)).mean(1)
        loss = F.cross_entropy(means @ names_of(model, tokenizer).T, name)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    return model.eval()


def names_of(model, tokenizer):
    return model.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids(NAMES)]


def documents(chunk_len):
    """Texts of 120 words; the name of each, and a passage behind the first edge of chunks without overlap."""
    generator = torch.Generator().manual_seed(1)
    edge = chunk_len - 2
    for _ in range(40):
        words = [FILLERS[i] for i in torch.randint(len(FILLERS), (120,), generator=generator).tolist()]
        name = int(torch.randint(len(NAMES), (1,), generator=generator))
        words[edge - 2] = NAMES[name]
        ends = torch.tensor([len(word) + 1 for word in words]).cumsum(0).tolist()
        yield " ".join(words), name, (ends[edge], ends[edge + PASSAGE] - 1)


def share_found(model, tokenizer, **options):
    texts, names, spans = zip(*documents(POSITIONS), strict=True)
    found = late_chunks(model, tokenizer, texts, [[span] for span in spans], normalize=False, **options)
    rows = torch.cat([one.embeddings for one in found])
    best = (rows @ names_of(model, tokenizer).T).argmax(1)
    return (best == torch.tensor(names)).float().mean().item()


def test_merged_states_find_what_is_beyond_a_chunks_edge(model, tokenizer):
    merged = share_found(model, tokenizer, overlap=24)
    by_chunk = share_found(model, tokenizer, overlap=0)
    assert merged >= 0.9 and by_chunk <= 0.4
    with lckernels.lengthened(model, tokenizer, overlap=24):
        assert share_found(model, tokenizer) == merged
