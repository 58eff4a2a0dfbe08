"""Counts of the calls that transformers makes of lckernels' attention function."""

from transformers import AttentionInterface

from lckernels.hf import NAME


def counted_attention(monkeypatch):
    """A list with an entry for each call of the attention function from now on."""
    calls, attention = [], AttentionInterface._global_mapping[NAME]
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        NAME,
        lambda *args, **options: calls.append(1) or attention(*args, **options),
    )
    return calls
