"""DeepSeek-V4: layers with a compressor add keys to their mask, from a number of tokens on."""

from torch import nn

from lckernels.hf.family import Family


def _compressed_keys(layer: nn.Module) -> str:
    compressed = getattr(layer, "compressor", None) is not None
    return "it adds compressed keys to its attention mask itself" if compressed else ""


FAMILY = Family(name="deepseek_v4", unsupported=_compressed_keys)
