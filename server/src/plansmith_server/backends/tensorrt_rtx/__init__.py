"""The backend `tensorrt_rtx`: engines that TensorRT for RTX compiled, on the RTX GPU of this machine."""
