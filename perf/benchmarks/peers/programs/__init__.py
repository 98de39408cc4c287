"""The peers' programs: each runs in an environment of its own, and imports nothing of plansmith.

Each reads the JSON file that the variable PEER_SETTINGS names: `model` (the ONNX file), `name`, `host`, `http_port`,
`grpc_port`, `metrics_port`, `max_batch_size` (0 for a model that does not batch), `batch_wait` (seconds), and `inputs`
and `outputs` with `name`, `dtype` (numpy's) and `shape` (with the batch dimension, -1 for any size).
"""
