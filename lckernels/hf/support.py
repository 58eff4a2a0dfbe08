"""Which attention a LongEncoder's model runs on: its own, or lckernels'."""

from torch import nn
from transformers import PreTrainedModel

from lckernels.backends.registry import BackendError, Problem, choose, why_no_kernel
from lckernels.devices import device_and_dtype, first_weight
from lckernels.hf.family import uses_interface
from lckernels.hf.masks.descriptor import INTERFACE
from lckernels.hf.patch.dry_run import padded_dry_run
from lckernels.hf.patch.modules import is_compiled, is_patched

SHORT_ROW = 128  # tokens up to which the time of a call of attention is mostly that before the kernel


def check_supported(model: nn.Module) -> None:
    """Raises TypeError for a model in which lckernels' attention would run in no layer."""
    reasons = unsupported_reasons(model)
    if reasons:
        name = type(model).__name__
        raise TypeError(f"model: got {name}; attention='lckernels' does not support it: {reasons[0]}")


def is_short(seqlen: int) -> bool:
    """Whether "auto" is the model's own attention for rows of this length, whatever the model."""
    return seqlen <= SHORT_ROW


def own_attention_reasons(model: nn.Module, attention: str, seqlen: int) -> list[str]:
    """Why a call with rows of `seqlen` tokens runs on the model's own attention; empty if on lckernels'.

    "auto" replaces torch's attention only, in rows of more than SHORT_ROW tokens, and only where a backend of
    lckernels has a kernel for it.
    """
    if attention != "auto":
        return [] if attention == "lckernels" else ["attention='model'"]
    if is_short(seqlen):
        return [f"rows of at most {SHORT_ROW} tokens take as long on it, or less"]
    reasons = _interface_reasons(model)
    if reasons:
        return reasons
    if is_patched(model):
        return ["the model is patched"]
    implementation = getattr(model.config, "_attn_implementation", None)
    if implementation != "sdpa":
        return [f"the model has attn_implementation={implementation!r}"]
    if is_compiled(model):
        return ["the model is compiled"]
    return _kernel_reasons(model, seqlen) or unsupported_reasons(model)


def attention_backend(model: nn.Module, attention: str, seqlen: int) -> str:
    """The attention of a call with rows of `seqlen` tokens, in words; by layers if they differ."""
    own = own_attention_reasons(model, attention, seqlen)
    if own:
        return f"the model's own: {own[0]}"
    run = padded_dry_run(model)
    if not run.calls:
        return f"lckernels, if the model uses no mask but padding, which is not known ({run.error})"
    if not run.dense:
        return "lckernels"
    served = f"lckernels in {run.served} of {len(run.calls)} layers"
    return f"{served}; torch's dense attention in the others: {', '.join(run.dense)}"


def stores_scores(model: nn.Module, attention: str, seqlen: int) -> bool:
    """Whether some layer may store a score for each pair of `seqlen` tokens, as lckernels never does."""
    if own_attention_reasons(model, attention, seqlen) and not is_patched(model):
        return True
    run = padded_dry_run(model)
    return bool(run.error or run.dense or not run.calls)


def unsupported_reasons(model: nn.Module) -> list[str]:
    """Why lckernels' attention would run in no layer of a model; empty if it would in some."""
    return _interface_reasons(model) or padded_dry_run(model).reasons()


def _interface_reasons(model: nn.Module) -> list[str]:
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not models:
        return ["it is no model of transformers"]
    found = []
    for name in sorted({type(m).__name__ for m in models if not uses_interface(m)}):
        found.append(f"the attention of {name} does not go through {INTERFACE}")
    if any(getattr(module.config, "output_attentions", False) for module in models):
        found.append("its config has output_attentions, which only its own eager attention returns")
    return found


def _kernel_reasons(model: nn.Module, seqlen: int) -> list[str]:
    weight = first_weight(model)
    heads, hidden = (getattr(model.config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if weight is None or not isinstance(heads, int) or not isinstance(hidden, int):
        return ["the model's config has no num_attention_heads and hidden_size"]
    device, dtype = device_and_dtype(model, weight)
    if device == "meta":
        return ["its weights are on the meta device; the attention is known when they are loaded"]
    shape = (1, seqlen, heads, hidden // heads)
    try:
        problem = Problem("windowed_attention", device, dtype, (shape, shape, shape))
        missing = why_no_kernel(choose(problem, warn=False), problem)
    except BackendError as error:
        return [str(error)]
    return [missing] if missing else []
