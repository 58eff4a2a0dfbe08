"""A random BERT with a WordPiece tokenizer, an XLM-R with Unigram, and a text; no network is required."""

from pathlib import Path

import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("river", "mountain", "winter", "engine", "garden", "letter", "silver", "harbour", "shadow", "window")
POSITIONS = 32


def save_tiny_bert(folder: Path, dim: int = 16, positions: int = POSITIONS) -> Path:
    """Model and tokenizer in `folder`, as AutoModel and AutoTokenizer load them; `positions` positions."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", "[", "]", *WORDS, *LETTERS]
    vocabulary += [f"##{letter}" for letter in LETTERS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=positions,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def save_tiny_xlmr(folder: Path) -> Path:
    """As save_tiny_bert, but XLM-R: `<s>` and `</s>` are pieces of the vocabulary; 32 usable positions."""
    pieces = [(special, 0.0) for special in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(f"\u2581{word}", -3.0) for word in WORDS]
    pieces += [(character, -6.0) for character in f"\u2581{LETTERS}<>/."]
    transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=POSITIONS).save_pretrained(folder)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(pieces) + 1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS + 2,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    transformers.XLMRobertaModel(config).save_pretrained(folder)
    return folder


def tiny_text(sentences: int = 60) -> str:
    """Paragraphs of three sentences; neighbouring sentences begin with different words."""
    lines = []
    for index in range(sentences):
        words = [WORDS[(index + step * step) % len(WORDS)] for step in range(4 + index % 3)]
        lines.append(f"{' '.join(words).capitalize()}.")
    paragraphs = (" ".join(lines[start : start + 3]) for start in range(0, sentences, 3))
    return "\n\n".join(paragraphs) + "\n"
