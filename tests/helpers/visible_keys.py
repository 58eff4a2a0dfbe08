"""Which keys an attention layer's queries see, read off the layer itself by one-hot values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def set_one_hot(layer: nn.Module, names: tuple[str, str, str, str]) -> None:
    """Makes all scores 0, and the value of a token its hidden state.

    Args:
        layer: the attention layer, whose heads together are as wide as its hidden states.
        names: of its projections of queries, keys, values and the output.
    """
    query, key, value, output = (getattr(layer, name) for name in names)
    with torch.no_grad():
        for linear in (query, key, value, output):
            if linear.bias is not None:
                linear.bias.zero_()
        query.weight.zero_()
        key.weight.zero_()
        for linear in (value, output):
            linear.weight.copy_(torch.eye(*linear.weight.shape))


def weights_of_keys(
    layer: nn.Module, run: Callable[[], object], argument: str = "hidden_states", result: int = 0
) -> Tensor:
    """The weight of each key for each query in a layer of `set_one_hot`, (batch, seqlen_q, seqlen_k).

    Args:
        layer: the attention layer; its hidden states in `run` become one-hot.
        run: a forward of the model.
        argument: name of the layer's hidden states, where they are a keyword argument.
        result: which of its results has the queries.
    """
    seen, lengths = [], []

    def one_hot(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states = args[0] if args else kwargs[argument]
        batch, seqlen, width = states.shape
        assert seqlen <= width, "one-hot values require hidden states as wide as the sequence is long"
        lengths.append(seqlen)
        hot = torch.eye(seqlen, width, dtype=states.dtype).expand(batch, -1, -1)
        return ((hot, *args[1:]), kwargs) if args else (args, {**kwargs, argument: hot})

    def keep(_: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        seen.append(output[result].detach()[..., : lengths[0]])

    hooks = [
        layer.register_forward_pre_hook(one_hot, with_kwargs=True),
        layer.register_forward_hook(keep, with_kwargs=True),
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    (weights,) = seen
    return weights
