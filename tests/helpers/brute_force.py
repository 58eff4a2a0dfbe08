"""The attention ops in Python floats, one score at a time: an independent implementation."""

import math

from torch import Tensor

from lckernels import Layout, Plan, Score


def philox(counter: list[int], seed: int) -> list[int]:
    """Four 32-bit draws of Philox4x32-10."""
    word = 2**32
    key = [seed % word, (seed >> 32) % word]
    c = [x % word for x in counter]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b % word, (a >> 32) ^ c[3] ^ key[1], a % word]
        key = [(key[0] + 0x9E3779B9) % word, (key[1] + 0xBB67AE85) % word]
    return c


def _at(x: int | Tensor, b: int) -> int:
    if not isinstance(x, Tensor):
        return x
    return int(x) if x.dim() == 0 else int(x[b])


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], scale: float, layout: Layout, score: Score,
    dropout_p: float = 0.0, seed: int = 0,
) -> tuple[list, list]:  # fmt: skip
    """out[b][i][h][d] and lse[b][h][i] as nested lists."""
    out = [
        [[[0.0] * v.shape[3] for _ in range(q.shape[2])] for _ in range(q.shape[1])]
        for _ in range(q.shape[0])
    ]
    lse = [[[-math.inf] * q.shape[1] for _ in range(q.shape[2])] for _ in range(q.shape[0])]
    packed = layout.cu_seqlens_q is not None
    if packed:
        bounds = zip(
            layout.cu_seqlens_q[:-1].tolist(), layout.cu_seqlens_q[1:].tolist(),
            layout.cu_seqlens_k[:-1].tolist(), layout.cu_seqlens_k[1:].tolist(), strict=True,
        )  # fmt: skip
        pieces = [(0, b, *bound) for b, bound in enumerate(bounds)]
    else:
        pieces = [(b, b, 0, q.shape[1], 0, k.shape[1]) for b in range(q.shape[0])]
    for row, b, q0, q1, k0, k1 in pieces:
        for i in range(q1 - q0):
            for h in range(q.shape[2]):
                kv = h // (q.shape[2] // k.shape[2])
                probs = _row_scores(q, k, window, scale, layout, score, row, b, q0, q1, k0, k1, i, h, kv)
                total = sum(math.exp(s) for s in probs.values())
                if score.sink_logits is not None:
                    total += math.exp(float(score.sink_logits[h]))
                if total == 0:
                    continue
                lse[row][h][q0 + i] = math.log(total)
                p = i + _offset(layout, b, q1 - q0, k1 - k0)
                for j, s in probs.items():
                    prob = math.exp(s) / total
                    if dropout_p:
                        draw = philox([j >> 2, p, h, b], seed)[j & 3]
                        prob = prob / (1 - dropout_p) if draw >= math.floor(dropout_p * 2**32) else 0.0
                    for d in range(v.shape[3]):
                        out[row][q0 + i][h][d] += prob * float(v[row, k0 + j, kv, d])
    return out, lse


def _offset(layout: Layout, b: int, seqlen_q: int, seqlen_k: int) -> int:
    return seqlen_k - seqlen_q if layout.offset is None else _at(layout.offset, b)


def _row_scores(q, k, window, scale, layout, score, row, b, q0, q1, k0, k1, i, h, kv) -> dict[int, float]:
    p = i + _offset(layout, b, q1 - q0, k1 - k0)
    found = {}
    for j in range(k1 - k0):
        if not _visible(window, layout, row, b, k0, k1, p, j):
            continue
        s = scale * sum(
            float(x) * float(y) for x, y in zip(q[row, q0 + i, h], k[row, k0 + j, kv], strict=True)
        )
        if score.softcap:
            s = score.softcap * math.tanh(s / score.softcap)
        if score.rel_bias is not None:
            column = min(max(j - p + score.bias_center, 0), score.rel_bias.shape[1] - 1)
            s += float(score.rel_bias[h, column])
        found[j] = s
    return found


def _visible(window, layout, row, b, k0, k1, p, j) -> bool:
    start = 0 if layout.kv_start is None else int(layout.kv_start[b])
    end = k1 - k0 if layout.kv_end is None else int(layout.kv_end[b])
    if not start <= j < end or (layout.kv_mask is not None and not layout.kv_mask[row, k0 + j]):
        return False
    if layout.segment_ids is not None:
        ids = layout.segment_ids[row].tolist()
        if not 0 <= p < len(ids) or ids[p] != ids[j]:
            return False
        start = max(start, ids.index(ids[j]))
    left, right = window
    if right >= 0 and j > p + right:
        return False
    if left >= 0 and j < p - left and not j - start < layout.sink_tokens:
        return False
    origin = _at(layout.chunk_origin, b)
    return layout.chunk == 0 or (j - origin) // layout.chunk == (p - origin) // layout.chunk


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, plan: Plan, weights, scale: float, extra=None):
    """out[t][h][d] and extra_out[c][e][h][d] (empty rows without extra) as nested lists."""
    out = [[[0.0] * v.shape[2] for _ in range(q.shape[1])] for _ in range(q.shape[0])]
    weight_sum = [0.0] * plan.total_len
    extra_out = []
    for chunk in range(plan.num_chunks):
        tokens = [
            (row[2] + u, chunk_weight(row, u, weights))
            for row in plan.segments.tolist()
            for u in range(row[3])
            if row[0] == chunk
        ]
        rows = [[x[t].tolist() for t, _ in tokens] for x in (q, k, v)]
        if extra is not None:
            for own, x in zip(rows, (extra.q, extra.k, extra.v), strict=True):
                own.extend(x[chunk].tolist())
        results = [_attend_row(query, *rows[1:], scale) for query in rows[0]]
        extra_out.append(results[len(tokens) :])
        for (t, a), result in zip(tokens, results, strict=False):
            weight_sum[t] += a
            for h, values in enumerate(result):
                for d, value in enumerate(values):
                    out[t][h][d] += a * value
    out = [[[x / a for x in row] for row in rows] for rows, a in zip(out, weight_sum, strict=True)]
    return out, extra_out


def chunk_weight(row: list[int], u: int, weights) -> float:
    """The weight of a segment's position u; row as in Plan.segments."""
    chunk, col, _, length, keep_start, keep_end, starts_document, ends_document = row[:8]
    m = min(length if starts_document else u + 1, length if ends_document else length - u)
    if isinstance(weights, Tensor):
        return float(weights[chunk, col + u])
    return {
        "uniform": 1.0,
        "triangular": float(m),
        "hann": math.sin(math.pi * m / (2 * (length + 1))) ** 2,
        "crop": float(keep_start <= u < keep_end),
    }[weights]


def _attend_row(query: list, keys: list, values: list, scale: float) -> list:
    """out[h][d] of one query [h][d] over keys and values [n][h][d]."""
    out = []
    for h, x in enumerate(query):
        kv = h // (len(query) // len(keys[0]))
        scores = [scale * sum(a * b for a, b in zip(x, key[kv], strict=True)) for key in keys]
        probs = [math.exp(s - max(scores)) for s in scores]
        columns = zip(*(value[kv] for value in values), strict=True)
        out.append(
            [sum(p * y for p, y in zip(probs, column, strict=True)) / sum(probs) for column in columns]
        )
    return out
