"""The backend `onnxruntime`: ONNX models on ONNX Runtime, configured like Triton's native backend of that name."""
