"""Late chunking by plain loops over windows, tokens and spans; a SentenceTransformer of the tiny BERT."""

import torch


def merged_by_loop(model, ids, chunk_len, overlap):
    """States (len(content), dim) of ids with one special token at each end: triangular weights, a loop."""
    content, room = ids[1:-1], chunk_len - 2
    length = min(room, len(content))
    starts = [*range(0, len(content) - length, room - overlap), len(content) - length]
    total = torch.zeros(len(content), model.config.hidden_size)
    weight_sum = torch.zeros(len(content), 1)
    for number, start in enumerate(starts):
        row = torch.cat([ids[:1], content[start : start + length], ids[-1:]])
        states = model(input_ids=row[None]).last_hidden_state[0, 1:-1]
        for u in range(length):
            left = length if number == 0 else u + 1
            right = length if number == len(starts) - 1 else length - u
            total[start + u] += min(left, right) * states[u]
            weight_sum[start + u] += min(left, right)
    return total / weight_sum


def late_by_loop(model, tokenizer, text, spans, chunk_len, overlap):
    """(num_spans, dim) of length 1."""
    encoding = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", verbose=False)
    with torch.no_grad():
        states = merged_by_loop(model, encoding["input_ids"][0], chunk_len, overlap)
    offsets = encoding["offset_mapping"][0, 1:-1].tolist()
    vectors = []
    for start, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if max(a, start) < min(b, end)]
        mean = sum(states[i] for i in inside) / len(inside)
        vectors.append(mean / mean.norm())
    return torch.stack(vectors)


def tokens_by_chunk(num_tokens, chunk_len, overlap):
    """The content tokens of each chunk, as ranges."""
    room = chunk_len - 2
    starts = [*range(0, num_tokens - room, room - overlap), num_tokens - room]
    return [range(start, start + room) for start in starts]
