"""A tiny encoder-decoder, trained in seconds, that translates word by word, and the translation by hand.

A word has two translations: the second one in a sentence that begins with "Not" or its Chinese character.
"""

from functools import cache

import torch
import transformers
from helpers.trained_models import Draw, train
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ENGLISH = ("River", "Mountain", "Winter", "Engine", "Garden", "Letter", "Silver", "Harbour")
CHINESE = "山水风火木金土石"
NOT, STOPS, COMMAS = ("Not", "不"), (".", "。"), (",", "，")  # noqa: RUF001
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
_SAME = (*NOT, *STOPS, *COMMAS)  # have one translation each
_WORDS = (*ENGLISH, *CHINESE)
_PLAIN = [f"u{i}" for i in range(len(ENGLISH))] + list("abcdefgh")
_NEGATED = [f"v{i}" for i in range(len(ENGLISH))] + list("ABCDEFGH")
VOCABULARY = [*_SPECIAL, *_SAME, *_WORDS, *_PLAIN, *_NEGATED, "neg"]
_ID = {word: i for i, word in enumerate(VOCABULARY)}
_OF_SAME = ("neg", "neg", ".", ".", ",", ",")
POSITIONS, LONGEST = 16, 13


def by_hand(words: list[str]) -> list[str]:
    """The translation of one sentence."""
    words_of = _NEGATED if words[0] in NOT else _PLAIN
    return [words_of[_WORDS.index(word)] if word in _WORDS else _OF_SAME[_SAME.index(word)] for word in words]


def tokenizer(limit: int = 10**30) -> transformers.PreTrainedTokenizerFast:
    """One of words and single Chinese characters, which adds `</s>` alone."""
    fast = Tokenizer(models.WordLevel(_ID, unk_token="<unk>"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=False)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=limit, clean_up_tokenization_spaces=False,
        pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def untrained() -> transformers.BartForConditionalGeneration:
    """The model with random weights."""
    config = transformers.BartConfig(
        vocab_size=len(VOCABULARY), d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64,
        decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0,
        attention_dropout=0.0, max_position_embeddings=POSITIONS, init_std=0.2, pad_token_id=0,
        eos_token_id=1, bos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


@cache
def trained(steps: int = 300) -> transformers.BartForConditionalGeneration:
    """The model after training on sentences of at most 13 words; 16 positions. One for all tests."""
    draw = Draw()
    second = torch.tensor([[_ID[a], _ID[b]] for a, b in zip(_PLAIN, _NEGATED, strict=True)])
    table = torch.arange(len(VOCABULARY)).repeat(2, 1)
    table[:, [_ID[word] for word in _WORDS]] = second.T
    table[:, [_ID[word] for word in _SAME]] = torch.tensor([_ID[word] for word in _OF_SAME])

    def batch(rows: int = 64) -> dict[str, torch.Tensor]:
        is_chinese, length = draw(0, 2, rows, 1), draw(1, LONGEST + 1, rows, 1)
        is_negated, ends = draw(0, 2, rows, 1), draw(0, 5, rows, 1) > 0
        column = torch.arange(LONGEST + 2).expand(rows, -1)
        words = _ID[ENGLISH[0]] + draw(0, len(ENGLISH), *column.shape) + len(ENGLISH) * is_chinese
        ids = torch.where(draw(0, 8, *column.shape) > 0, words, _ID[COMMAS[0]] + is_chinese)
        ids = torch.where((column == 0) & (is_negated > 0), _ID[NOT[0]] + is_chinese, ids)
        ids = torch.where((column == length) & ends, _ID[STOPS[0]] + is_chinese, ids)
        length = length + ends
        ids = torch.where(column == length, _ID["</s>"], ids)
        labels = table[is_negated.expand_as(ids), ids]
        is_token = column <= length
        return {
            "input_ids": ids * is_token,
            "attention_mask": is_token.long(),
            "labels": torch.where(is_token, labels, -100),
        }

    return train(untrained, batch, steps)
