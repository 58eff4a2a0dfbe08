#!/usr/bin/env bash
# Versions: transformers 5.24.0, tokenizers 0.23.3.
# Behaviour: save_pretrained of a fast tokenizer writes the truncation and the padding of its last call into tokenizer.json.
#   The tokenizers library, and programs built on it, then cut each text to that length and pad shorter ones to it.
#   transformers itself turns both off at a call without them.
# Seen on 2026-11-30, ids of a text of 1000 words and of one of 2 words, tokenizer.json read by Tokenizer.from_file:
#   saved before any call: 1002 4
#   saved after tokenizer(text, truncation=True, padding="max_length", max_length=16): 16 16
#   saved after one more call without options: 1002 4
#   the second of them, loaded and called by transformers: 1002 4
# Instead: save the tokenizer before it is used, or after a call without truncation and padding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "[PAD]": 3, "word": 4}
rust = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
rust.pre_tokenizer = pre_tokenizers.Whitespace()
rust.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="[UNK]", pad_token="[PAD]")
TEXTS = [" ".join(["word"] * count) for count in (1000, 2)]
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)


def saved(name):
    """The number of ids of each text by the saved tokenizer.json."""
    folder = f"{sys.argv[1]}/{name}"
    tokenizer.save_pretrained(folder)
    plain = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return [len(plain.encode(text).ids) for text in TEXTS]


found = [saved("new")]
tokenizer(TEXTS[1], truncation=True, padding="max_length", max_length=16)
found.append(saved("used"))
tokenizer(TEXTS[1])
found.append(saved("reset"))
loaded = transformers.AutoTokenizer.from_pretrained(f"{sys.argv[1]}/used")
found.append([len(loaded(text, verbose=False)["input_ids"]) for text in TEXTS])
for name, counts in zip(("before any call", "after a call", "after one more", "by transformers"), found):
    print(f"{name}:", *counts)
raise SystemExit(found != [[1002, 4], [16, 16], [1002, 4], [1002, 4]])
PYTHON
