"""Windowed attention by onnxruntime's GroupQueryAttention, all tensors bound without a copy."""

import torch
from torch import Tensor

from bench.cases.attention import AttentionCase
from bench.harness.comparison import Unsupported
from bench.peers.attention import Peer
from bench.peers.limits import installed

_INPUTS = ("q", "k", "v", "past_k", "past_v", "seqlens", "total")
_OUTPUTS = ("out", "present_k", "present_v")


def onnxruntime(case: AttentionCase, direction: str, device: torch.device | str = "cpu") -> Peer:
    """GroupQueryAttention with local_window_size, which counts the query's own key.

    It writes its present keys and values too; in decoding they are the cache itself, as in onnxruntime-genai.
    """
    left, right = case.window_size
    if case.dtype != torch.float32 or right != 0 or direction == "backward":
        raise Unsupported("GroupQueryAttention on a CPU is causal, fp32 and forward only")
    decoding = direction == "decode"
    session = _session(case, left + 1 if left >= 0 else -1, decoding)
    out = torch.empty(case.batch, case.seqlen_q, case.num_heads * case.head_dim)
    cache_shape = (case.batch, case.num_kv_heads, case.seqlen, case.head_dim)
    present = [] if decoding else [torch.empty(cache_shape) for _ in range(2)]
    lengths = torch.full((case.batch,), case.seqlen - 1, dtype=torch.int32)
    total = torch.tensor([case.seqlen], dtype=torch.int32)

    def prefill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = dict(zip("qkv", (x.flatten(2) for x in (q, k, v)), strict=True))
        _run(session, given | {"seqlens": lengths, "total": total}, [out, *present])
        return out.view(q.shape)

    def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = {name: x[:, :, -1].flatten(1)[:, None] for name, x in (("q", q), ("k", k), ("v", v))}
        given |= {"past_k": k, "past_v": v, "seqlens": lengths, "total": total}
        _run(session, given, [out, k, v])
        return out.view(q.shape)

    return Peer(decode if decoding else prefill, by_head=decoding)


def _session(case: AttentionCase, window: int, decoding: bool) -> object:
    """A graph of one node; threads do not spin (the cores are shared), no memory arena."""
    onnx, runtime = installed("onnx"), installed("onnxruntime")
    hidden, hidden_kv = case.num_heads * case.head_dim, case.num_kv_heads * case.head_dim
    rows, cache = (case.batch, case.seqlen_q), (case.batch, case.num_kv_heads, case.seqlen, case.head_dim)
    shapes = {"q": (*rows, hidden), "k": (*rows, hidden_kv), "v": (*rows, hidden_kv)}
    shapes |= {"past_k": cache, "past_v": cache} if decoding else {}
    shapes |= {"seqlens": (case.batch,), "total": (1,)}
    made = {"out": (*rows, hidden), "present_k": cache, "present_v": cache}

    def values(shapes: dict[str, tuple[int, ...]]) -> list[object]:
        kinds = {"seqlens": onnx.TensorProto.INT32, "total": onnx.TensorProto.INT32}
        float_kind = onnx.TensorProto.FLOAT
        return [
            onnx.helper.make_tensor_value_info(name, kinds.get(name, float_kind), shape)
            for name, shape in shapes.items()
        ]

    node = onnx.helper.make_node(
        "GroupQueryAttention",
        [name if name in shapes else "" for name in _INPUTS],
        _OUTPUTS,
        domain="com.microsoft",
        num_heads=case.num_heads,
        kv_num_heads=case.num_kv_heads,
        local_window_size=window,
    )
    versions = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    graph = onnx.helper.make_graph([node], "attention", values(shapes), values(made))
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: object, inputs: dict[str, Tensor], outputs: list[Tensor]) -> None:
    binding = session.io_binding()
    numpy = installed("numpy")
    inputs = {name: x.contiguous() for name, x in inputs.items()}
    for name, x in inputs.items():
        kind = numpy.int32 if x.dtype == torch.int32 else numpy.float32
        binding.bind_input(name, "cpu", 0, kind, tuple(x.shape), x.data_ptr())
    for name, x in zip(_OUTPUTS, outputs, strict=True):
        binding.bind_output(name, "cpu", 0, numpy.float32, tuple(x.shape), x.data_ptr())
    session.run_with_iobinding(binding)
