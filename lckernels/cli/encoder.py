"""The encoder of the commands search and encode, and its options as they are typed."""

from lckernels.cli.console import set_threads, silence_libraries
from lckernels.cli.models import check_no_gguf
from lckernels.cli.options import Boundaries, Dtype, Merge, Weights
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
) -> TextEncoder:
    """The encoder with the options of the command line; sets the number of threads first."""
    check_no_gguf(model)
    set_threads(threads)
    silence_libraries()
    return TextEncoder(
        model,
        dtype=dtype.value,
        chunk_len=chunk_len,
        overlap=overlap,
        weights=weights.value,
        boundaries=boundaries.value,
        merge=merge.value,
    )
