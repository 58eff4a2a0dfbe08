"""Late chunking by plain loops over windows, tokens and spans."""

import torch
from helpers.merged_by_hand import chunk_starts, merged_by_hand


def late_by_loop(model, tokenizer, text, spans, chunk_len, overlap):
    """(num_spans, dim) of length 1."""
    encoding = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", verbose=False)
    with torch.no_grad():
        states = _states(model, encoding["input_ids"][0], chunk_len, overlap)[1:-1]
    offsets = encoding["offset_mapping"][0, 1:-1].tolist()
    vectors = []
    for start, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if max(a, start) < min(b, end)]
        mean = sum(states[i] for i in inside) / len(inside)
        vectors.append(mean / mean.norm())
    return torch.stack(vectors)


def _states(model, ids, chunk_len, overlap):
    """The merged states of ids with one special token at each end, (len(ids), dim)."""

    def read(columns):
        return [model(input_ids=ids[columns][None]).last_hidden_state[0]]

    (states,), _ = merged_by_hand(read, len(ids), chunk_len=chunk_len, overlap=overlap)
    return states


def tokens_by_chunk(num_tokens, chunk_len, overlap):
    """The content tokens of each chunk, as ranges."""
    room = chunk_len - 2
    return [range(start, start + room) for start in chunk_starts(num_tokens, room, overlap)]
