"""The encoder of the commands search and encode, and its options as they are typed."""

import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from lckernels.cli.console import set_threads, silence_libraries
from lckernels.cli.models import check_no_gguf
from lckernels.cli.options import Boundaries, Dtype, Merge, Weights, with_option_name
from lckernels.errors import InputError
from lckernels.long.checkpoints import max_seq_length

if TYPE_CHECKING:
    from lckernels.long.text_encoder import TextEncoder

EXTRAS = dict.fromkeys(("safetensors", "sentencex", "transformers"), "hf")


def load_encoder(
    model: str,
    threads: int | None,
    chunk_len: int | None,
    overlap: int | None,
    weights: Weights,
    boundaries: Boundaries,
    merge: Merge,
    dtype: Dtype,
    quantize: bool,
    notify: Callable[[str], None],
) -> "TextEncoder":
    """The encoder with the options of the command line; sets the number of threads first.

    `notify` receives warnings, such as that of a task head that is not loaded, and a remark on the length of
    the encoder's chunks.
    """
    from lckernels.long.text_encoder import TextEncoder

    check_no_gguf(model)
    check_backend(merge, dtype)
    set_threads(threads)
    silence_libraries()
    options = {
        "chunk_len": chunk_len,
        "overlap": overlap,
        "weights": weights.value,
        "boundaries": boundaries.value,
        "merge": merge.value,
    }
    with warnings.catch_warnings(record=True) as found:
        warnings.filterwarnings("always", module=re.escape(__name__))  # those that point to the call below
        try:
            encoder = TextEncoder(model, dtype=dtype.value, quantize=quantize, **options)
        except InputError as error:
            raise InputError(with_option_name(str(error), options)) from None
        finally:
            for warning in found:
                notify(str(warning.message))
    notify(_chunk_len_remark(encoder, chunk_len is None))
    return encoder


def check_backend(merge: Merge, dtype: Dtype) -> None:
    """Raises BackendError where the backend that LCKERNELS names cannot merge chunks on the CPU."""
    from lckernels.backends.registry import Problem, choose
    from lckernels.long.text_encoder import DTYPES

    op = "overlap_merge" if merge == Merge.final else "chunked_attention"
    choose(Problem(op, "cpu", DTYPES[dtype.value], shapes=()), warn=False)


def _chunk_len_remark(encoder: "TextEncoder", is_default: bool) -> str:
    """The length of a chunk, and the model's own max_seq_length where that is another possible length."""
    used, limit = encoder.encoder.chunk_len, max_seq_length(encoder.name)
    remark = f"chunk length {used:,} tokens{', all positions of the model' if is_default else ''}"
    if limit is None or limit == used or (is_default and limit > used):
        return remark
    return f"{remark}; --chunk-len {limit} is the max_seq_length in its sentence_bert_config.json"
