"""A tokenizer of transformers whose tokens are words, and texts for it."""

import torch
import transformers
from helpers.encoder_models import CLS, PAD, SEP, VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers, processors

UNK, MASK_ID = 0, 2
SPECIAL = {"[UNK]": UNK, "[PAD]": PAD, "[MASK]": MASK_ID, "[CLS]": CLS, "[SEP]": SEP}


def word_tokenizer(limit=32, **options):
    """[CLS] and [SEP] around a text, [SEP] and a second one for a pair; the word w7 is token 7."""
    vocab = {**SPECIAL, **{f"w{i}": i for i in range(5, VOCAB)}}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    options = {"model_max_length": limit, "model_input_names": inputs, **options}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **names, **options)


def words(count, seed=0):
    """A text of so many words."""
    generator = torch.Generator().manual_seed(1000 * seed + count)
    return " ".join(f"w{i}" for i in torch.randint(5, VOCAB, (count,), generator=generator).tolist())
