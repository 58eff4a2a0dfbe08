"""The attention that a LongEncoder's model runs on: lckernels' or the model's own.

`lckernels.hf` is imported within functions, since it requires transformers; other modules do not.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import nn

from lckernels.checks import bad
from lckernels.long.encoder_check import is_transformers_model

if TYPE_CHECKING:
    from lckernels.hf.choice import Choice

ATTENTIONS = ("auto", "lckernels", "model")


def check_attention(model: nn.Module, attention: str) -> None:
    """Raises ValueError for an unknown name, TypeError for a model that "lckernels" does not support."""
    if attention not in ATTENTIONS:
        raise bad("attention", repr(attention), f"allowed are {', '.join(ATTENTIONS)}")
    if attention == "lckernels":
        from lckernels.hf.support import check_supported

        check_supported(model)


class AttentionContexts:
    """The contexts of a LongEncoder's calls: lckernels' attention, or the model's own.

    The choice is made at the first call, and again at a call that finds the model or its config changed.
    """

    def __init__(self) -> None:
        self._choice: Choice | None = None

    def __reduce__(self) -> tuple:
        return AttentionContexts, ()  # a copy's model is another one

    def of(
        self, model: nn.Module, attention: str, seqlen: int, piece_tokens: int | None = None
    ) -> AbstractContextManager[None]:
        """The context of a call with rows of `seqlen` tokens, for this thread.

        Args:
            model: the wrapped model.
            attention: one of ATTENTIONS.
            seqlen: tokens of a row.
            piece_tokens: on lckernels' attention a feed-forward over more tokens runs in pieces of so many.
        """
        if attention == "model":
            return nullcontext()
        choice = self._choice
        if choice is not None and attention == "auto" and choice.is_short(seqlen):
            return nullcontext()
        if choice is None or not choice.holds(model):
            if attention == "auto" and not is_transformers_model(model):
                return nullcontext()
            from lckernels.hf.choice import Choice

            choice = self._choice = Choice(model)
        return choice.context(attention, seqlen, piece_tokens)


def describe_attention(model: nn.Module, attention: str, seqlen: int) -> str:
    """The attention of a call with rows of `seqlen` tokens, in words."""
    if attention == "auto" and not is_transformers_model(model):
        return "the model's own: it is no model of transformers"
    from lckernels.hf.support import attention_backend

    return attention_backend(model, attention, seqlen)


def config_notes(model: nn.Module) -> tuple[str, ...]:
    """Fields of the config of a transformers model with another effect than their names, a sentence each."""
    if not is_transformers_model(model):
        return ()
    from lckernels.hf.patch.config_notes import config_notes as notes
    from lckernels.hf.patch.dry_run import padded_dry_run

    return notes(model, padded_dry_run(model))


def stores_scores(model: nn.Module, attention: str, seqlen: int) -> bool:
    """Whether a call with rows of `seqlen` tokens may store a score for each pair of tokens."""
    if not is_transformers_model(model):
        return True
    from lckernels.hf.support import stores_scores as stores

    return stores(model, attention, seqlen)
