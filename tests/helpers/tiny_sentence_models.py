"""Tiny random models that sentence-transformers loads: 16 positions, a vocabulary of a few words."""

import torch
import transformers
from helpers.merged_by_hand import merged_by_hand

CHUNK, OVERLAP = 16, 2
WORDS = ["red", "green", "blue", "one", "two", "three", "fox", "dog"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", ","]
LONG = " ".join(WORDS[i * i % 7] for i in range(200))
OTHER = " ".join(WORDS[(i * i + i) % 7] for i in range(90))

_BERT = {
    "vocab_size": len(TOKENS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": CHUNK,
    "initializer_range": 0.2,
}
_DISTILBERT = {
    "vocab_size": len(TOKENS),
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 16,
    "max_position_embeddings": CHUNK,
    "initializer_range": 0.2,
}


def save(folder, name="BertModel", **options):
    """The folder, as a str, with a model of the class and its tokenizer."""
    folder.mkdir(exist_ok=True, parents=True)
    of_bert = name.startswith("Bert")
    config = transformers.BertConfig if of_bert else transformers.DistilBertConfig
    torch.manual_seed(0)
    model = getattr(transformers, name)(config(**(_BERT if of_bert else _DISTILBERT), **options))
    model.save_pretrained(folder)
    tokenizer = transformers.BertTokenizerFast(vocab={token: i for i, token in enumerate(TOKENS)})
    tokenizer.save_pretrained(folder)
    return str(folder)


def files(model, folder):
    """What the model saves: the bytes of each file, by its path in the folder."""
    model.save_pretrained(str(folder))
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def merged_row(encoder, ids, lead=1, types=None):
    """(states, chunks) of one row of ids, by a plain loop: the states (seqlen, dim), the number of chunks."""

    def read(columns):
        given = {} if types is None else {"token_type_ids": types[None, columns]}
        with torch.no_grad():
            return [encoder(input_ids=ids[None, columns], **given).last_hidden_state[0]]

    (states,), chunks = merged_by_hand(read, len(ids), lead=lead, chunk_len=CHUNK, overlap=OVERLAP)
    return states, chunks
