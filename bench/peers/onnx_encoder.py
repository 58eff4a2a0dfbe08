"""A BERT by onnxruntime with its fused operators: embeddings, attention, GELU, residuals with LayerNorm."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.harness.comparison import Unsupported
from bench.peers.limits import installed

_DOMAIN = "com.microsoft"


def onnxruntime_bert(model: nn.Module, rows: int, tokens: int) -> Callable[[Tensor], Tensor]:
    """The last hidden state (rows, tokens, dim) of input_ids (rows, tokens), without a mask.

    Args:
        model: a BertModel in fp32.
        rows: rows of a call.
        tokens: tokens of a row.

    Raises:
        Unsupported: another dtype, or onnx and onnxruntime are not installed.
    """
    if model.dtype != torch.float32:
        raise Unsupported("onnxruntime's Attention on a CPU is fp32")
    numpy = installed("numpy")
    session = _session(_graph(model, rows, tokens))
    segments = numpy.zeros((rows, tokens), dtype=numpy.int32)

    def states(input_ids: Tensor) -> Tensor:
        inputs = {"ids": input_ids.to(torch.int32).numpy(), "segments": segments}
        return torch.from_numpy(session.run(None, inputs)[0])

    return states


def _session(model: Any) -> Any:
    """As many threads as torch's; idle ones do not spin, since the cores are shared in turns."""
    runtime = installed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Graph:
    """Nodes and weights of a graph; each node has one output that is used."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, x: Tensor) -> str:
        name = f"w{len(self.weights)}"
        array = x.detach().contiguous().numpy()
        self.weights.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, domain: str = _DOMAIN, others: int = 0, **attributes: Any) -> str:
        name = f"x{len(self.nodes)}"
        outputs = [name, *(f"{name}_{i}" for i in range(others))]
        made = self.onnx.helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes)
        self.nodes.append(made)
        return name

    def product(self, x: str, linear: nn.Linear) -> str:
        """Without the bias, which the next operator adds."""
        return self.node("MatMul", x, self.weight(linear.weight.t()), domain="")


def _graph(model: nn.Module, rows: int, tokens: int) -> Any:
    onnx = installed("onnx")
    graph, config = _Graph(onnx), model.config
    epsilon = {"epsilon": config.layer_norm_eps}

    def norm(layer: nn.LayerNorm) -> list[str]:
        return [graph.weight(layer.weight), graph.weight(layer.bias)]

    def residual(x: str, skip: str, linear: nn.Linear, layer: nn.LayerNorm) -> str:
        bias = graph.weight(linear.bias)
        return graph.node(
            "SkipLayerNormalization", graph.product(x, linear), skip, *norm(layer), bias, **epsilon
        )

    found = model.embeddings
    tables = (found.word_embeddings, found.position_embeddings, found.token_type_embeddings)
    embedded = [graph.weight(table.weight) for table in tables]
    x = graph.node(
        "EmbedLayerNormalization", "ids", "segments", *embedded, *norm(found.LayerNorm), others=1, **epsilon
    )
    for layer in model.encoder.layer:
        own = layer.attention.self
        parts = (own.query, own.key, own.value)
        weight = graph.weight(torch.cat([part.weight for part in parts]).t())
        bias = graph.weight(torch.cat([part.bias for part in parts]))
        attended = graph.node("Attention", x, weight, bias, num_heads=config.num_attention_heads)
        output = layer.attention.output
        x = residual(attended, x, output.dense, output.LayerNorm)
        inner = layer.intermediate.dense
        wide = graph.node("BiasGelu", graph.product(x, inner), graph.weight(inner.bias))
        x = residual(wide, x, layer.output.dense, layer.output.LayerNorm)
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = (rows, tokens)
    inputs = [helper.make_tensor_value_info(name, kinds.INT32, shape) for name in ("ids", "segments")]
    result = helper.make_tensor_value_info(x, kinds.FLOAT, (*shape, config.hidden_size))
    made = helper.make_graph(graph.nodes, "bert", inputs, [result], graph.weights)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_model(made, opset_imports=versions, ir_version=10)
