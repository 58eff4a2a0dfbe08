#!/usr/bin/env bash
# Versions: transformers 5.24.0, tokenizers 0.23.3.
# Behaviour: a tokenizer call with a pair of texts, truncation=True (which is "longest_first") and
#   return_overflowing_tokens=True returns every window of the first text combined with every window of the second, if
#   both are long. The number of rows grows with the product of the lengths. With a short first text there is one row
#   for each window of the second, as expected.
# Seen on 2026-11-29 (max_length 512, stride 128), tokens of the texts -> rows:
#   50 and 2000 -> 6
#   2000 and 2000 -> 225
#   4000 and 4000 -> 961
# Instead: truncation="only_second" with a first text that is cut beforehand, or chunks of the tokens of both texts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "word": 3}
rust = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
rust.pre_tokenizer = pre_tokenizers.Whitespace()
rust.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="[UNK]")

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
rows = []
for first, second in ((50, 2000), (2000, 2000), (4000, 4000)):
    texts = " ".join(["word"] * first), " ".join(["word"] * second)
    windows = tokenizer(*texts, truncation=True, max_length=512, stride=128, return_overflowing_tokens=True)
    rows.append(len(windows["input_ids"]))
    print(f"{first} and {second} -> {rows[-1]}")
raise SystemExit(rows != [6, 225, 961])
PYTHON
