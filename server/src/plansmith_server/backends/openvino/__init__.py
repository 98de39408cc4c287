"""The backend `openvino`: models on OpenVINO, configured like Triton's native backend of that name."""
