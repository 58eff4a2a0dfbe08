"""Floating point operations of attention and encoders (a multiply-add is two), and sizes in words."""


def attention_flops(pairs: int, num_heads: int, head_dim: int, head_dim_v: int) -> int:
    """Of q.k and of probabilities times v, for the visible (query, key) pairs of one head."""
    return 2 * pairs * num_heads * (head_dim + head_dim_v)


def attention_backward_flops(pairs: int, num_heads: int, head_dim: int, head_dim_v: int) -> int:
    """Of the backward's five products: q.k again, dout.v, and those that give dq, dk and dv."""
    return 2 * pairs * num_heads * (3 * head_dim + 2 * head_dim_v)


def encoder_flops(
    tokens: int, lengths: list[int], num_layers: int, hidden_size: int, intermediate_size: int
) -> int:
    """Matrix products of an encoder with full attention.

    Args:
        tokens: that projections and feed-forward read, each with
            8 * hidden_size ** 2 + 4 * hidden_size * intermediate_size operations per layer.
        lengths: of the sequences that attention reads, each with 4 * length ** 2 * hidden_size operations per
            layer.
        num_layers: number of layers.
        hidden_size: width of a token's state.
        intermediate_size: width of the feed-forward.
    """
    pairs = sum(length * length for length in lengths)
    dense = 4 * hidden_size * tokens * (2 * hidden_size + intermediate_size)
    return num_layers * (dense + attention_flops(pairs, 1, hidden_size, hidden_size))


def format_flops(count: int) -> str:
    """A number of operations with its unit, such as "1.25 TFLOP"."""
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:,} FLOP"


def format_count(count: int, noun: str) -> str:
    """A number of things, such as "1 chunk" or "1,200 chunks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(size: int) -> str:
    """A number of bytes with its unit, such as "1.5 GiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return format_count(size, "byte")
