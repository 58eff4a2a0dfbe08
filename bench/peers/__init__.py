"""Other implementations of the same operations: torch, FlexAttention, onnxruntime, transformers."""
