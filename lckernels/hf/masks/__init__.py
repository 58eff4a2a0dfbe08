"""Mask descriptors: what replaces a (batch, 1, seqlen_q, seqlen_k) mask in transformers.

`create.create_mask` is transformers' mask function. It returns a descriptor with the shape of the 4-D mask
and one byte of memory: a `KeyMask` (window, offsets, padding, segments). A mask function that no reader
supports gives the dense mask.

    descriptor.py  the base class of the descriptors
    key_mask.py    the descriptor of windowed_attention
    chunk_mask.py  the descriptor of chunked_attention
    kinds.py       which keys a layer sees, independent of the input
    patterns.py    what a mask function describes
    readers.py     mask function -> pattern
    create.py      arguments of transformers' mask interface -> descriptor
    traced.py      the same under torch.compile, where mask functions cannot be read
    kept.py        the keys that a rolling KV cache keeps, and the part of a 2-D mask for them
    padding.py     2-D padding mask -> bounds of the valid keys
    moved.py       padding behind virtual tokens -> padding before them
    packing.py     cu_seq_lens_q, cu_seq_lens_k -> layout
"""
