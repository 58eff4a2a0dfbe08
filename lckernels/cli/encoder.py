"""The encoder of the commands search and encode, and its options as they are typed."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from lckernels.cli.console import set_threads, silence_libraries
from lckernels.cli.models import check_no_gguf
from lckernels.cli.options import Boundaries, Dtype, Merge, Weights, with_option_name
from lckernels.errors import InputError
from lckernels.long.checkpoints import dropped_head, max_seq_length

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
    notify: Callable[[str], None],
) -> "TextEncoder":
    """The encoder with the options of the command line; sets the number of threads first.

    `notify` receives a remark on a task head that is not loaded, and one on the length of its chunks.
    """
    from lckernels.long.text_encoder import TextEncoder

    check_no_gguf(model)
    set_threads(threads)
    silence_libraries()
    options = {
        "chunk_len": chunk_len,
        "overlap": overlap,
        "weights": weights.value,
        "boundaries": boundaries.value,
        "merge": merge.value,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*its task head is not loaded")
        try:
            encoder = TextEncoder(model, dtype=dtype.value, **options)
        except InputError as error:
            raise InputError(with_option_name(str(error), options)) from None
    dropped = dropped_head(model, encoder.encoder.model.config)
    if dropped:
        notify(dropped)
    notify(_chunk_len_remark(encoder, chunk_len is None))
    return encoder


def _chunk_len_remark(encoder: "TextEncoder", is_default: bool) -> str:
    """The length of a chunk, and the model's own max_seq_length where that is another possible length."""
    used, limit = encoder.encoder.chunk_len, max_seq_length(encoder.name)
    remark = f"chunk length {used:,} tokens{', all positions of the model' if is_default else ''}"
    if limit is None or limit == used or (is_default and limit > used):
        return remark
    return f"{remark}; --chunk-len {limit} is the max_seq_length in its sentence_bert_config.json"
