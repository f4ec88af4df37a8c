"""The gRPC service: runs published models on onnxruntime. Never torch, never onnx."""
