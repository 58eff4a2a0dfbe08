"""pooler_output of longer rows: the encoder's own pooler on the merged states, or None."""

import inspect

import pytest
import torch
from helpers.encoder_models import CLS, PAD, SEP, token_ids
from helpers.row_models import make_rows_model

import lckernels

transformers = pytest.importorskip("transformers")

CHUNK = 32
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 40, "pad_token_id": PAD, "bos_token_id": CLS,
    "eos_token_id": SEP, "initializer_range": 0.2, "embedding_size": 32, "mask_token_id": 5,
    "true_hidden_size": 32, "intra_bottleneck_size": 32, "attention_window": 8, "entity_vocab_size": 10,
    "entity_emb_size": 16, "max_2d_position_embeddings": 64, "languages": ["en_XX"],
    "default_language": "en_XX", "block_size": 4, "num_random_blocks": 1, "input_embedding_size": 32,
}  # fmt: skip
# A module of states.
POOLERS = (
    "Bert", "Camembert", "ChineseCLIPText", "Data2VecText", "Ernie", "Esm", "FNet", "IBert",
    "JinaEmbeddingsV3", "LayoutLM", "Longformer", "Luke", "MPNet", "MarkupLM", "MegatronBert", "MobileBert",
    "RemBert", "RoCBert", "Roberta", "RobertaPreLayerNorm", "SqueezeBert", "Tapas", "XLMRoberta",
    "XLMRobertaXL", "Xmod",
)  # fmt: skip
LINEAR = ("Albert", "BigBird")  # a linear layer of the first state, and an activation
OTHERS = ("CLIPText", "SiglipText")  # read the end of the text
NONE = ("ConvBert", "Deberta", "DistilBert", "Electra", "ModernBert", "RoFormer", "Splinter", "Yoso")


def encoder(name):
    config_class = getattr(transformers, f"{name}Config")
    allowed = {*inspect.signature(config_class).parameters, *getattr(config_class, "attribute_map", ())}
    torch.manual_seed(0)
    config = config_class(**{key: size for key, size in SIZES.items() if key in allowed})
    return getattr(transformers, f"{name}Model")(config).eval()


def output(model, rows=2):
    ids = torch.stack([token_ids(70, seed) for seed in range(rows)])
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("name", [*POOLERS, *LINEAR])
def test_the_pooler_reads_merged_states(name):
    model = encoder(name)
    report = lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    long = output(model)
    states = long.last_hidden_state
    with torch.no_grad():
        expected = torch.tanh(model.pooler(states[:, 0])) if name in LINEAR else model.pooler(states)
    if name == "BigBird":  # whose activation is a module
        assert isinstance(model.activation, torch.nn.Tanh)
    assert torch.equal(long.pooler_output, expected)
    assert "on the merged states" in report.pooler
    with torch.no_grad():
        first = model(token_ids(70)[None, :CHUNK]).pooler_output
    assert (first - expected[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_a_pooler_that_reads_other_states(name):
    """No pooler_output for a longer row, rather than that of another state."""
    model = encoder(name)
    with torch.no_grad():
        short = model(token_ids(20)[None]).pooler_output
    report = lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    assert report.pooler == "None for longer rows"
    assert output(model).pooler_output is None
    with torch.no_grad():
        assert torch.equal(model(token_ids(20)[None]).pooler_output, short)


def test_the_pooler_of_canine():
    model = make_rows_model("canine")
    assert lckernels.lengthen(model, chunk_len=CHUNK).pooler == "None for longer rows"
    assert output(model).pooler_output is None


@pytest.mark.parametrize("name", NONE)
def test_without_a_pooler(name):
    model = encoder(name)
    assert lckernels.lengthen(model, chunk_len=CHUNK, prefix=None).pooler == ""
    assert getattr(output(model), "pooler_output", None) is None


@pytest.mark.parametrize("name", ["Bert", "Albert", "canine"])
def test_weights_that_cannot_be_tried_before_a_call(name):
    """Offloaded weights: the first longer row shows what the pooler reads."""
    accelerate = pytest.importorskip("accelerate")
    model = make_rows_model(name) if name == "canine" else encoder(name)
    with lckernels.lengthened(model, chunk_len=CHUNK, prefix=None):
        expected = output(model).pooler_output
    accelerate.cpu_offload(model, torch.device("cpu"))
    lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    pooled = output(model).pooler_output
    assert (pooled is None) == (name == "canine")
    if pooled is not None:
        assert torch.equal(pooled, expected)


def test_the_models_that_compute_a_pooler_output_otherwise():
    """These compute it from the result of an encoder, which is then the one that reads chunks."""
    vision = {"hidden_size": 32, "projection_dim": 8}
    model = transformers.AltCLIPTextModel(transformers.AltCLIPTextConfig(**SIZES | vision)).eval()
    report = lckernels.lengthen(model, chunk_len=CHUNK, prefix=None)
    assert report.encoder == "roberta (AltRobertaModel)"
    long = output(model)
    with torch.no_grad():
        states = model.transformation(model.pre_LN(model.roberta(torch.stack([token_ids(70)]))[0]))
    torch.testing.assert_close(long.pooler_output[:1], states[:, 0])
    model = transformers.DPRQuestionEncoder(transformers.DPRConfig(**SIZES)).eval()
    report = lckernels.lengthen(model, chunk_len=CHUNK)
    assert report.encoder == "question_encoder.bert_model (BertModel)"
    with torch.no_grad():
        states = lckernels.LongEncoder(
            transformers.BertModel(model.config, add_pooling_layer=False).eval(), CHUNK, summary="mean"
        )
        states.model.load_state_dict(model.question_encoder.bert_model.state_dict())
        assert torch.equal(
            output(model, 1).pooler_output, states(token_ids(70)[None]).last_hidden_state[:, 0]
        )
