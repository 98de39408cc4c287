"""Load tests for models served by Triton Inference Server."""
