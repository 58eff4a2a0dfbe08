"""The interface between lckernels and one architecture of transformers; `families/` has one file for each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lckernels.hf.masks.readers import Reader, add_readers, remove_readers
from lckernels.hf.private import can_set_attention


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is particular to one architecture; every hook is optional.

    Attributes:
        name: of the architecture; by default its folder in transformers.models.
        matches: whether a module's class belongs to the family; default: a class of its MRO is defined in
            transformers.models.<name>. The hooks below get matching modules only.
        mask_readers: readers of its own mask functions, by (module, qualified name); the module is its full
            name, in any package, or the last parts of it.
        unsupported: attention layer -> why calls of some length are not supported, as the end of a sentence
            about the model, which `patch` then raises; empty if all are supported.
        relative_bias: (attention layer, its position_bias) -> (rel_bias, bias_center) as in Score; None: the
            call runs as dense attention.
        bias_distance: attention layer with a relative position bias -> the distance of an earlier key from
            which on the bias is the same for all; None: there is none.
        replacements: module -> functions (module, ...) by name that replace its methods, such as forward,
            while lckernels runs it, and values that replace its attributes; a config in the module that the
            functions get names lckernels' attention.
        packs_sequences: where the name of the attention implementation has "flash", the module's forward
            passes all sequences of a packed row to one call, with cu_seq_lens_q; else each to a call.
        own_attention: the model's attention does not go through transformers' interface, but that of the
            replacements does.
        left_out: model -> why its attention, which has code of its own, is not supported, as the end of a
            sentence about the model; empty if it is, or without such a reason.
        feed_forward: names of methods (batch, seqlen, dim) -> the same that may run over pieces of seqlen.
        mixes_tokens: model -> what mixes neighbouring tokens outside attention, as the end of a sentence
            about the model; empty if nothing does.
        dry_inputs: model, or layer that packs sequences -> the keyword arguments of a forward on the meta
            device; None: the usual ones.
        equal_rows: model -> why its states depend on padding to the longest row of a batch, as the end of a
            sentence about the model, where a trial run of short rows may not show it; empty if they do not.
        single_rows: the same for states that depend on the other rows of a batch.
        fixed_rows: model -> the only length of a row that it supports, and why, as the end of a sentence
            about the model; None if it supports several.
        fused: module -> functions (module, ...) by name that compute the same as its methods, with
            `lckernels.hf.fused.activated` for a linear layer and its activation; they run where linear
            layers are packed.
        restore: model -> what undoes the changes that a call makes to the model itself; None without any.
        config_notes: config of a module -> the effect of fields that differs from their names, by field, as
            the end of a sentence after "config.FIELD is VALUE: ".
        rotation: attention layer whose only positions are those of its model's rotary_emb -> the function
            (q, k, cos, sin) -> (q, k) by which it rotates; None: the layer has no positions.
        learned_positions: model -> the number of positions in its table, and whether it counts the tokens of
            the attention mask where a call has no position_ids (else it counts all); None without a table.
    """

    name: str
    matches: Callable[[type], bool] | None = None
    mask_readers: Mapping[tuple[str, str], Reader] = field(default_factory=dict)
    unsupported: Callable[[nn.Module], str] | None = None
    relative_bias: Callable[[nn.Module, Any], tuple[Tensor, int] | None] | None = None
    bias_distance: Callable[[nn.Module], int | None] | None = None
    replacements: Callable[[nn.Module], dict[str, Any]] | None = None
    packs_sequences: bool = False
    own_attention: bool = False
    left_out: Callable[[nn.Module], str] | None = None
    feed_forward: tuple[str, ...] = ()
    mixes_tokens: Callable[[nn.Module], str] | None = None
    dry_inputs: Callable[[nn.Module], dict[str, Tensor] | None] | None = None
    equal_rows: Callable[[nn.Module], str] | None = None
    single_rows: Callable[[nn.Module], str] | None = None
    fixed_rows: Callable[[nn.Module], tuple[int, str] | None] | None = None
    fused: Callable[[nn.Module], dict[str, Callable]] | None = None
    restore: Callable[[nn.Module], Callable[[], None] | None] | None = None
    config_notes: Callable[[PreTrainedConfig], dict[str, str]] | None = None
    rotation: Callable[[nn.Module], Callable | None] | None = None
    learned_positions: Callable[[nn.Module], tuple[int, bool] | None] | None = None

    def has(self, cls: type) -> bool:
        """Whether a module's class belongs to the family."""
        if self.matches is not None:
            return self.matches(cls)
        return any(base.__module__.startswith(f"transformers.models.{self.name}.") for base in cls.__mro__)


_families: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Adds a family; one of the same name is replaced."""
    unregister_family(family.name)
    _families[family.name] = family
    add_readers(family.mask_readers)
    families_of.cache_clear()


def unregister_family(name: str) -> None:
    """Removes a family, if it is registered."""
    family = _families.pop(name, None)
    if family is not None:
        remove_readers(family.mask_readers)
    families_of.cache_clear()


def families() -> tuple[Family, ...]:
    """All registered families."""
    return tuple(_families.values())


@cache
def families_of(cls: type) -> tuple[Family, ...]:
    """The families that a module's class belongs to."""
    return tuple(family for family in _families.values() if family.has(cls))


def unsupported_reason(module: nn.Module) -> str:
    """Why calls of an attention layer are not supported; empty if they are."""
    return next(_results_of(module, "unsupported"), "")


def relative_bias(module: nn.Module, position_bias: Any) -> tuple[Tensor, int] | None:
    """(rel_bias, bias_center) of a layer's position_bias; None if no family has one."""
    hooks = (family.relative_bias for family in families_of(type(module)))
    found = (hook(module, position_bias) for hook in hooks if hook is not None)
    return next((table for table in found if table is not None), None)


def bias_distance(module: nn.Module) -> int | None:
    """The distance from which on a layer's relative position bias is constant; None if no family has one."""
    return next(_results_of(module, "bias_distance"), None)


def replacements(module: nn.Module) -> dict[str, Any]:
    """Functions (module, ...) and values that replace methods and attributes of a module on lckernels."""
    return _by_name(module, "replacements")


def fused_methods(module: nn.Module) -> dict[str, Callable]:
    """Functions (module, ...) that replace methods of a module where linear layers are packed."""
    return _by_name(module, "fused")


def own_method(module: nn.Module, name: str, replacement: Callable) -> Callable:
    """The function of the module's class that `replacement` replaces."""
    functions = (vars(cls).get(name) for cls in type(module).__mro__)
    return next(function for function in functions if function not in (None, replacement))


def packs_sequences(cls: type) -> bool:
    """Whether a module's class passes all sequences of a packed row to one call of flash attention."""
    return any(family.packs_sequences for family in families_of(cls))


def uses_interface(model: PreTrainedModel) -> bool:
    """Whether a model's attention goes through transformers' interface, at least with its replacements."""
    own = any(family.own_attention for family in families_of(type(model)))
    return own or can_set_attention(model)


def left_out_reason(model: nn.Module) -> str:
    """Why a model's attention with code of its own is not supported; empty if no family names it."""
    return next(_results(model, "left_out"), "")


def feed_forward_methods(module: nn.Module) -> tuple[str, ...]:
    """Names of the module's methods that may run over pieces of a sequence."""
    names = (name for family in families_of(type(module)) for name in family.feed_forward)
    return tuple(name for name in names if callable(getattr(type(module), name, None)))


def token_mixing(model: nn.Module) -> str:
    """What mixes neighbouring tokens of a model outside attention; empty if no family names it."""
    return next(_results_of(model, "mixes_tokens"), "")


def dry_inputs(model: nn.Module) -> dict[str, Tensor] | None:
    """The keyword arguments of a dry run; None if no family has them."""
    hooks = (family.dry_inputs for family in families_of(type(model)))
    found = (hook(model) for hook in hooks if hook is not None)
    return next((inputs for inputs in found if inputs is not None), None)


def row_reasons(model: nn.Module) -> tuple[str, str]:
    """Why states depend on padding, and on the other rows of a batch; empty where no family has a reason."""
    return next(_results(model, "equal_rows"), ""), next(_results(model, "single_rows"), "")


def fixed_rows(model: nn.Module) -> tuple[int, str] | None:
    """The only length of a row that the model supports, and why; None if it supports several."""
    return next(_results(model, "fixed_rows"), None)


def rotation_of(layer: nn.Module) -> tuple[bool, Callable | None]:
    """Whether a family has the rotation of an attention layer, and the function, as in Family."""
    hooks = (family.rotation for family in families_of(type(layer)))
    return next(((True, hook(layer)) for hook in hooks if hook is not None), (False, None))


def learned_positions(model: nn.Module) -> tuple[int, bool] | None:
    """The learned positions of a model itself, as in Family; None if no family has them."""
    return next(_results_of(model, "learned_positions"), None)


def changed_by_calls(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that a call changes, by their families."""
    found = ((module, families_of(type(module))) for module in model.modules())
    return [module for module, known in found if any(family.restore is not None for family in known)]


def changes_undone(model: nn.Module) -> list[Callable[[], None]]:
    """What undoes the changes that a call makes to the model itself, taken before the call."""
    return list(_results(model, "restore"))


def config_notes(module: nn.Module, config: PreTrainedConfig) -> dict[str, str]:
    """By field, the effect in the config of a module, where that differs from the field's name."""
    hooks = (family.config_notes for family in families_of(type(module)))
    return {field: text for hook in hooks if hook is not None for field, text in hook(config).items()}


def _by_name(module: nn.Module, hook: str) -> dict[str, Any]:
    """The entries of a hook's results; of two with one name, that of the family registered last."""
    return {name: value for found in _results_of(module, hook) for name, value in found.items()}


def _results(model: nn.Module, name: str) -> Iterator[Any]:
    """Results of the hooks for the model and its modules, without those of a hook that does not apply."""
    for module in model.modules():
        yield from _results_of(module, name)


def _results_of(module: nn.Module, name: str) -> Iterator[Any]:
    """The same for one module."""
    hooks = (getattr(family, name) for family in families_of(type(module)))
    yield from filter(None, (hook(module) for hook in hooks if hook is not None))
