"""The attention that a LongEncoder's model runs on: lckernels' or the model's own.

`lckernels.hf` is imported within functions, since it requires transformers; other modules do not.
"""

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from lckernels.checks import bad
from lckernels.long.encoder_check import is_transformers_model

ATTENTIONS = ("auto", "lckernels", "model")


def check_attention(model: nn.Module, attention: str) -> None:
    """Raises ValueError for an unknown name, TypeError for a model that "lckernels" does not support."""
    if attention not in ATTENTIONS:
        raise bad("attention", repr(attention), f"allowed are {', '.join(ATTENTIONS)}")
    if attention == "lckernels":
        from lckernels.hf.support import check_supported

        check_supported(model)


def attention_context(
    model: nn.Module, attention: str, seqlen: int, piece_tokens: int | None = None
) -> AbstractContextManager[None]:
    """The context of a call with rows of `seqlen` tokens: lckernels' attention, or the model's own.

    Args:
        model: the wrapped model.
        attention: one of ATTENTIONS.
        seqlen: tokens of a row.
        piece_tokens: on lckernels' attention a feed-forward over more tokens runs in pieces of so many.
    """
    if attention == "model" or (attention == "auto" and not is_transformers_model(model)):
        return nullcontext()
    from lckernels.hf.patch.modules import lckernels_attention
    from lckernels.hf.support import own_attention_reasons

    own = own_attention_reasons(model, attention, seqlen)
    return nullcontext() if own else lckernels_attention(model, piece_tokens)


def describe_attention(model: nn.Module, attention: str, seqlen: int) -> str:
    """The attention of a call with rows of `seqlen` tokens, in words."""
    if attention == "auto" and not is_transformers_model(model):
        return "the model's own: it is no model of transformers"
    from lckernels.hf.support import attention_backend

    return attention_backend(model, attention, seqlen)
