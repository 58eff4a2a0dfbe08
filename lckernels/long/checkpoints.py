"""What is stored with a model beside its weights: a task head, and sentence-transformers' length limit."""

import json
import re
from pathlib import Path
from typing import Any

from lckernels.extras import import_extra

_LIMIT_FILE = "sentence_bert_config.json"
_HEAD = re.compile(r"For[A-Z]")
_PRETRAINING = ("ForMaskedLM", "ForPreTraining")


def has_head(class_name: str) -> bool:
    """Whether a class of transformers has a task head, by its name: `XForY`."""
    return _HEAD.search(class_name) is not None


def task_head(config: Any) -> str | None:
    """The class with a task head that a checkpoint was saved from; None without one, or for pretraining."""
    classes = getattr(config, "architectures", None) or []
    return next((name for name in classes if has_head(name) and not name.endswith(_PRETRAINING)), None)


def dropped_head(path: object, config: Any) -> str:
    """A sentence on the task head of the checkpoint, of which an encoder was loaded; empty without a head."""
    head = task_head(config)
    return (
        "" if head is None else f"{path} was saved from {head}; its task head is not loaded, only its encoder"
    )


def max_seq_length(name: str | Path) -> int | None:
    """max_seq_length in the sentence_bert_config.json beside a model; None where there is none.

    Reads a local folder, or the local cache for a name on the Hugging Face hub; downloads nothing.
    """
    path = Path(name) / _LIMIT_FILE
    try:
        if not path.is_file():
            path = import_extra("huggingface_hub", "hf").try_to_load_from_cache(str(name), _LIMIT_FILE)
        limit = json.loads(Path(path).read_text(encoding="utf-8")).get("max_seq_length")
    except (ImportError, OSError, TypeError, ValueError, AttributeError):
        return None
    return limit if isinstance(limit, int) else None
