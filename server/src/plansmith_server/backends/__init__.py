"""What runs inside Triton: one process for each instance of each model, started by Triton's Python backend."""
