"""The encoder within a model: that of a task head, of an encoder-decoder, of a SentenceTransformer."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lckernels.inner_forward import INNER
from lckernels.long.checkpoints import has_head
from lckernels.long.decoders import find_decoder

# The model within DDP, FSDP1 and torch.compile.
_WRAPPED = ("module", "_fsdp_wrapped_module", "_orig_mod")
_COMPILED = "_compiled_call_impl"  # attribute that `module.compile()` sets


@dataclass(frozen=True)
class Parts:
    """What `lengthen` works on.

    Attributes:
        model: the model of transformers.
        encoder: the encoder in it, or itself.
        name: where the encoder is in the argument of `lengthen`; empty if that is the encoder.
        kind: what the model is, in words.
        tokenizer: that the model itself has; None without one.
        readers: modules of sentence-transformers that read texts with it.
        decoder: what reads the encoder's states; None without one.
        saver: the model of sentence-transformers, or its reader alone; None without one.
    """

    model: nn.Module
    encoder: nn.Module
    name: str
    kind: str
    tokenizer: Any = None
    readers: tuple[nn.Module, ...] = ()
    decoder: nn.Module | None = None
    saver: nn.Module | None = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a decoder reads the encoder's states."""
        return self.decoder is not None

    @property
    def is_lengthened(self) -> bool:
        """Whether `lengthen` has changed the encoder."""
        return INNER in self.encoder.__dict__


def find_parts(model: nn.Module, *, compiled: bool = False) -> Parts:
    """The parts of a model.

    Args:
        model: the model.
        compiled: whether its encoder may be compiled, or be in a compiled module.

    Raises:
        TypeError: no module, a compiled encoder, or a model without an encoder of transformers.
    """
    if not isinstance(model, nn.Module):
        hint = ", as from_pretrained of transformers or a SentenceTransformer loads it"
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        if isinstance(getattr(model, "model", None), nn.Module) and not isinstance(model, type):  # a pipeline
            hint += "; pass its .model and its .tokenizer"
        raise TypeError(f"model: got {got}; expected a model{hint}")
    tokenizer, readers, saver = None, (), None
    inner = _unwrapped(model)
    if not _is_pretrained(inner):
        saver = inner
        inner, tokenizer, readers = _of_sentence_transformers(saver)
    inner = _unwrapped(inner)
    decoder = find_decoder(inner)
    found, kind = _encoder(inner) if decoder is None else (inner.get_encoder(), "an encoder-decoder")
    if not compiled and any(_is_compiled(m) and found in m.modules() for m in model.modules()):
        raise TypeError(f"model: got {type(model).__name__}, compiled; lengthen the model, then compile it")
    name = next((name for name, module in model.named_modules() if module is found), "")
    return Parts(inner, found, name, kind, tokenizer, readers, decoder, saver)


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or module.__dict__.get(_COMPILED) is not None


def _encoder(model: nn.Module) -> tuple[nn.Module, str]:
    """The encoder of a model of transformers without a decoder, and what the model is."""
    name = type(model).__name__
    found, base = model, _base(model)
    while base is not None:
        found, base = base, _base(base)
    return found, "an encoder" if found is model else f"an encoder with a head ({name})"


def _base(model: nn.Module) -> nn.Module | None:
    """The model that a model of transformers adds a head to; None if it has none."""
    base = getattr(model, getattr(type(model), "base_model_prefix", "") or "", None)
    with_head = has_head(type(model).__name__) and isinstance(base, nn.Module)
    return base if with_head or _is_pretrained(base) else None


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model of transformers in wrappers of torch and PEFT."""
    while not _is_pretrained(model):
        if hasattr(model, "get_base_model"):  # of PEFT
            model = model.get_base_model()
        else:
            inside = (model._modules.get(name) for name in _WRAPPED)
            found = next((module for module in inside if module is not None), None)
            if found is None:
                break
            model = found
    return model


def _is_pretrained(model: object) -> bool:
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def _of_sentence_transformers(model: nn.Module) -> tuple[nn.Module, Any, tuple[nn.Module, ...]]:
    """The transformers model in one of sentence-transformers, its tokenizer, the modules that read texts.

    Raises:
        TypeError: another module.
    """
    reader = model[0] if isinstance(model, nn.Sequential) and len(model) else model
    # Version 6 stores the encoder in `model`, of which `auto_model` is a view; version 5 in `auto_model`.
    name = next((name for name in ("model", "auto_model") if name in reader._modules), None)
    tokenizer = getattr(reader, "tokenizer", None)
    inner = None if name is None else _unwrapped(reader._modules[name])
    if inner is None or tokenizer is None or not _is_pretrained(inner):
        expected = "expected a model of transformers, or a SentenceTransformer that begins with one"
        inside = [(name, m) for name, m in model.named_modules() if name and _is_pretrained(m)]
        if hasattr(reader, "sub_modules"):  # a Router, each of whose routes has its reader
            names = [name.rpartition(".")[0] for name, _ in inside]
            inside = [(name, model.get_submodule(name)) for name in names]
        expected += next((f"; pass the one in it, {name} ({type(m).__name__})" for name, m in inside), "")
        raise TypeError(f"model: got {type(model).__name__}, in which no encoder is found; {expected}")
    return inner, tokenizer, (reader,)
