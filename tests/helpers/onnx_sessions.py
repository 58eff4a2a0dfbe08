"""Sessions of onnxruntime for programs that torch.onnx.export makes."""

import onnxruntime


def session(program):
    """A session on the CPU, of one thread, without a message for each warning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
