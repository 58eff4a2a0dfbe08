"""LongEncoder raises for models whose states ignore later tokens, and takes encoders of all kinds."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import FAMILIES, tiny
from helpers.hf_encoders import MODELS, make_encoder
from helpers.row_models import make_rows_model
from transformers.modeling_outputs import BaseModelOutput

from lckernels import LongEncoder

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
# Sizes beside SIZES. Attention of these is marked as causal; experts change the rounding of earlier tokens.
EXPERTS = {
    "Mixtral": {"num_local_experts": 8, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64},
    "HunYuanMoEV1": {"num_experts": 4},
    "Phimoe": {"num_local_experts": 4},
    "MiniMaxM2": {"num_local_experts": 4},
    "JetMoe": {"num_local_experts": 4},
    "Qwen3Moe": {"num_experts": 8, "moe_intermediate_size": 16},
}
# These have no mark.
UNMARKED = {
    "Bloom": {},
    "XGLM": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "OpenAIGPT": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "Doge": {},
    "GPTNeoXJapanese": {},
    "Mamba": {"state_size": 4},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "FalconMamba": {"state_size": 4},
    "Rwkv": {},
}
BIDIRECTIONAL = {"llama", "qwen2", "gemma2", "mistral"}
ROWS = ["fnet", "canine", "funnel", "reformer", "yoso", "convbert", "big_bird", "nllb_moe", "xlnet"]


def decoder(name, seed, **options):
    sizes = {**SIZES, **EXPERTS.get(name, {}), **UNMARKED.get(name, {}), **options}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**sizes)
    return getattr(transformers, f"{name}Model")(config).eval()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", EXPERTS)
def test_rounding_of_experts_is_no_look_at_later_tokens(name, seed):
    with pytest.raises(TypeError, match=f"got {name}Model, a decoder, with causal attention"):
        LongEncoder(decoder(name, seed), 24)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", UNMARKED)
def test_decoders_without_a_mark_are_found(name, seed):
    message = f"got {name}Model, a decoder, whose states do not depend on later tokens; expected an encoder"
    with pytest.raises(TypeError, match=message):
        LongEncoder(decoder(name, seed), 24)


def test_one_direction_of_xlnet_is_a_decoder():
    with pytest.raises(TypeError, match="got XLNetModel, a decoder, whose states"):
        LongEncoder(make_rows_model("xlnet", attn_type="uni"), 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["Mixtral", "Bloom", "Mamba"])
def test_decoders_of_other_dtypes(name, dtype):
    for seed in range(3):
        with pytest.raises(TypeError, match=f"got {name}Model, a decoder"):
            LongEncoder(decoder(name, seed).to(dtype), 24)


def test_a_decoder_whose_weights_are_loaded_later_is_found_at_the_first_call():
    real = decoder("Bloom", 0)
    with torch.device("meta"):
        model = transformers.BloomModel(real.config).eval()
    encoder = LongEncoder(model, 24, special_tokens=(0, 0))
    model.to_empty(device="cpu").load_state_dict(real.state_dict())
    with torch.no_grad(), pytest.raises(TypeError, match="got BloomModel, a decoder"):
        encoder(torch.arange(20)[None])


@pytest.mark.parametrize("std", [0.02, 0.005])
@pytest.mark.parametrize("name", [*FAMILIES, *MODELS, *ROWS, *sorted(BIDIRECTIONAL)])
def test_encoders_with_small_weights_are_accepted(name, std):
    if name in FAMILIES or name in MODELS:
        model = make_encoder(name)
    else:
        model = make_rows_model(name, **({"is_causal": False} if name in BIDIRECTIONAL else {}))
        model = model.get_encoder() if name == "nllb_moe" else model
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, std, generator=generator)
    LongEncoder(model, 20)


@pytest.mark.parametrize("window", [2, 4])
def test_windows_narrower_than_the_short_row(window):
    layers = {"layer_types": ["sliding_attention"] * 2}
    LongEncoder(make_rows_model("modernbert", local_attention=window, **layers), 20)
    LongEncoder(make_rows_model("mistral", sliding_window=window, is_causal=False), 20)


@pytest.mark.parametrize("positions", [3, 4, 5])
def test_encoders_of_few_positions(positions):
    torch.manual_seed(0)
    sizes = {**SIZES, "max_position_embeddings": positions}
    LongEncoder(transformers.BertModel(transformers.BertConfig(**sizes)).eval())


class Blocks(torch.nn.Module):
    """A state is the mean of the embeddings in its block of tokens."""

    def __init__(self, size):
        super().__init__()
        self.inner, self.size = tiny(), size
        self.config = self.inner.config

    def forward(self, input_ids, attention_mask=None, **options):
        blocks = self.inner.embeddings.word_embeddings(input_ids).split(self.size, 1)
        means = [block.mean(1, keepdim=True).expand_as(block) for block in blocks]
        return BaseModelOutput(last_hidden_state=torch.cat(means, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 15, 16])
def test_blocks_of_attention_may_hold_the_last_token_alone(size):
    # In blocks of one token no state depends on another token: neither a decoder nor an encoder.
    assert LongEncoder(Blocks(size), 20).trial.sees_later is (None if size == 1 else True)
