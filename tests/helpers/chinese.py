"""A tokenizer of single Chinese characters, as BERT's, and a text for it with a wide character."""

import torch
import transformers

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# U+20BB7 is one character of Python and four bytes of UTF-8.
SENTENCES = ["张三住在北京。", "李四住在上海,是张三的朋友。", "\U00020bb7野家在东京开店。", "他们都喜欢读书!"]


def chinese_text(repeats=12):
    """The sentences, so many times."""
    return "".join(SENTENCES) * repeats


def chinese_tokenizer():
    """A fast BERT tokenizer, 32 tokens a text; a token is one character of the sentences."""
    characters = sorted({*"".join(SENTENCES)})
    vocab = {token: i for i, token in enumerate([*_SPECIAL, *characters])}
    return transformers.BertTokenizerFast(vocab=vocab, model_max_length=32)


def chinese_bert(seed=0, **sizes):
    """A random BERT with 32 positions for the tokenizer, in eval mode."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(chinese_tokenizer()), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.3, **sizes,
    )  # fmt: skip
    return transformers.BertModel(config).eval()
