"""A model with its tokenizer: one hidden state per token of a text of any length."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.checks import boolean
from lckernels.errors import InputError
from lckernels.flops import format_count
from lckernels.long.batches import num_token_ids
from lckernels.long.checkpoints import dropped_head
from lckernels.long.encoder import LongEncoder
from lckernels.long.explain import Explanation
from lckernels.long.fingerprint import tokenizer_sha256, weights_sha256
from lckernels.long.loading import load
from lckernels.long.tokens import Tokens, count_special_tokens, tokenize
from lckernels.sentences import sentence_boundaries, token_boundaries

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Encoded:
    """The states of one text.

    Attributes:
        states: (num_tokens, dim) in the model's dtype, without the special tokens.
        num_chunks: chunks that were read.
        seconds: duration of the model and the merge.
    """

    states: Tensor
    num_chunks: int
    seconds: float


class TextEncoder:
    """A LongEncoder with its tokenizer, loaded from a folder or the Hugging Face hub.

    Args:
        model: a folder, or a name on the hub.
        dtype: dtype of the weights, one of DTYPES. Default: "float32".
        quantize: whether linear layers compute in int8, as after `lckernels.quantize`. Default: False.
        options: arguments of LongEncoder, such as chunk_len, overlap, weights, boundaries, merge.
            special_tokens is read from the tokenizer; with halo="exact" they are content.

    Attributes:
        name: the argument `model`.
        dtype: the argument `dtype`.
        quantize: the argument `quantize`.
        tokenizer: a fast tokenizer of transformers.
        encoder: the LongEncoder, in eval mode.

    Raises:
        InputError: a model that cannot be loaded or is no encoder, or options that do not fit it.

    Warns:
        UserWarning: the checkpoint has a task head, which is not loaded.
    """

    def __init__(
        self, model: str | os.PathLike, *, dtype: str = "float32", quantize: bool = False, **options: Any
    ) -> None:
        if find_spec("lckernels._host") is None:
            needs = "cutting a text into chunks needs lckernels' compiled extension"
            raise InputError(f"{needs}; install lckernels where there is a C++ compiler")
        if not isinstance(model, str | os.PathLike):
            hint = "; LongEncoder takes a model" if isinstance(model, torch.nn.Module) else ""
            raise TypeError(f"model: got {type(model).__name__}; expected a folder or a name{hint}")
        self.name = model = os.fspath(model)
        self.dtype, self.quantize = dtype, boolean("quantize", quantize)
        self.tokenizer, encoder, self._random = load(model, DTYPES[dtype])
        dropped = dropped_head(model, encoder.config)
        if dropped:
            warnings.warn(dropped, stacklevel=2)
        exact = options.get("halo") is not None
        special_tokens = None if exact else count_special_tokens(self.tokenizer, model)
        try:
            self.encoder = LongEncoder(encoder, special_tokens=special_tokens, **options).eval()
            if quantize:
                from lckernels.hf.quantize import quantize as in_int8

                in_int8(encoder)
            self.embed("x")
        except (TypeError, ValueError) as error:
            if not str(error).startswith(("model:", *(f"{name}:" for name in options))):
                raise
            raise InputError(str(error)) from None

    def identity(self, language: str) -> dict[str, str]:
        """Everything beside the text that the states depend on, as strings: `hashes` and `settings`."""
        return {**self.hashes(), **self.settings(language)}

    def hashes(self) -> dict[str, str]:
        """Of the weights and the tokenizer; each call reads all weights."""
        return {
            "weights_sha256": weights_sha256(self.encoder.model, self._random),
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
        }

    def settings(self, language: str) -> dict[str, str]:
        """The options, as strings. `language` is "any" where the chunks do not depend on it."""
        encoder = self.encoder
        return {
            "chunk_len": str(encoder.chunk_len),
            "overlap": str(encoder.overlap),
            "weights": str(encoder.weights),
            "boundaries": encoder.boundaries,
            "merge": encoder.merge,
            "language": language if encoder.boundaries == "sentence" else "any",
            "dtype": self.dtype,
            **({"quantize": "int8"} if self.quantize else {}),  # states of earlier versions have no such key
        }

    def tokenize(self, text: str) -> Tokens:
        """The tokens of a text of any length; names of special tokens in it are tokenized as text.

        Raises:
            InputError: a piece of the text is a special token, and the vocabulary has no unknown token; or a
                token is outside the model's embedding.
            TypeError: no str.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: got {type(text).__name__}; expected a str, one text")
        tokens, size = tokenize(self.tokenizer, text, self.name), num_token_ids(self.encoder.model)
        outside = tokens.input_ids[:0] if size is None else tokens.input_ids[tokens.input_ids >= size]
        if len(outside):
            raise InputError(
                f"the tokenizer and the model of {self.name} do not belong together: a token of the text has "
                f"the id {int(outside[0])}, and the model's embedding has the ids 0 to {size - 1}"
            )
        return tokens

    def encode(
        self,
        tokens: Tokens,
        text: str = "",
        language: str = "en",
        notify: Callable[[str], None] | None = None,
        progress: bool = False,
    ) -> Encoded:
        """The merged last hidden state of a text.

        Args:
            tokens: of the text, as `tokenize` returns them.
            text: used with boundaries="sentence" only.
            language: of the text, an ISO 639 code; used with boundaries="sentence" only. Default: "en".
            notify: called once, before the model runs, with a message on the number of tokens and chunks.
            progress: show a progress bar (tqdm) over the tokens.
        """
        options = {}
        if self.encoder.boundaries == "sentence":
            cuts = token_boundaries(tokens.offsets, sentence_boundaries(text, language))
            options["sentence_boundaries"] = [[cut + tokens.leading for cut in cuts]]
        num_chunks = self.encoder.num_chunks(tokens.input_ids.shape[1], **options)
        if notify is not None:
            how = ", merged in every layer" if self.encoder.merge == "layer" else ""
            read = format_count(len(tokens.offsets), "token"), format_count(num_chunks, "chunk")
            notify(f"reading {' in '.join(read)}{how}")
        self.encoder.progress = progress
        start = time.perf_counter()
        with torch.inference_mode():
            output = self.encoder(input_ids=tokens.input_ids, **options)
        seconds = time.perf_counter() - start
        states = output.last_hidden_state[0, tokens.leading :][: len(tokens.offsets)]
        return Encoded(states, num_chunks, seconds)

    def explain(self, text: str, measure: bool = False) -> Explanation:
        """Cost and accuracy of the states of a text; with `measure`, the error on it as of LongEncoder."""
        return self.encoder.explain(input_ids=self.tokenize(text).input_ids, measure=measure)

    def embed(self, text: str) -> Tensor:
        """(dim,) float32 of length 1: the mean state of the text's tokens, special tokens included."""
        options = {"sentence_boundaries": [[]]} if self.encoder.boundaries == "sentence" else {}
        self.encoder.progress = False
        with torch.inference_mode():
            mean = self.encoder.embed(self.tokenize(text).input_ids, **options)[0]
        return F.normalize(mean.float(), dim=0)
