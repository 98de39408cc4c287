"""Session settings from config.pbtxt, under the names of Triton's native ONNX Runtime backend.

Source: github.com/triton-inference-server/onnxruntime_backend, README.md ("Model Config Options") and
`ModelState::ModelState` in src/onnxruntime.cc.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.backends.config import parse_switch, parse_whole_number
from plansmith_server.backends.threads import threads_per_instance
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_server.backends.config import ModelConfig

__all__ = ["SessionSettings"]

DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"
SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
# `optimization.graph.level` to ONNX Runtime's GraphOptimizationLevel, which turns every optimization on by default.
GRAPH_LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session is created.

    Attributes:
        intra_op_threads: within an operator; 0 leaves it to ONNX Runtime.
        inter_op_threads: across operators, in parallel execution; 0 leaves it to ONNX Runtime.
        parallel: whether operators run in parallel.
        graph_level: the name of a GraphOptimizationLevel.
        memory_arena: whether the CPU's memory arena is on; None leaves it to ONNX Runtime.
        memory_pattern: whether memory patterns are on; None leaves it to ONNX Runtime.
        session_entries: session configuration entries.
        run_entries: run configuration entries.
        operation_libraries: shared libraries with custom operators.
    """

    intra_op_threads: int
    inter_op_threads: int
    parallel: bool
    graph_level: str
    memory_arena: bool | None
    memory_pattern: bool | None
    session_entries: Mapping[str, str]
    run_entries: Mapping[str, str]
    operation_libraries: tuple[str, ...]

    @classmethod
    def from_config(cls, config: ModelConfig, kind: str) -> SessionSettings:
        """Read them from the configuration of a model for an instance of `kind` "CPU" or "GPU".

        Raises:
            ModelError: a value is not one that the parameter can have.
        """
        parameters = config.parameters
        mode = parse_whole_number("execution_mode", parameters.get("execution_mode", "0"))
        if mode > 1:
            raise ModelError(f"parameter 'execution_mode' must be 0 (sequential) or 1 (parallel), got {mode}")
        # As in the native backend, 0 is the default; the default there is every core for each instance.
        threads = _count(parameters, "intra_op_thread_count")
        if threads == 0 and kind == "CPU":
            share = threads_per_instance(config.instance_count)
            # ONNX Runtime uses all cores by default, and for small networks its default pool is faster than an explicit
            # one of the same size.
            threads = share if share < (os.cpu_count() or 1) else 0
        return cls(
            intra_op_threads=threads,
            inter_op_threads=_count(parameters, "inter_op_thread_count"),
            parallel=mode == 1,
            graph_level=GRAPH_LEVELS.get(config.graph_level, "ORT_ENABLE_ALL"),
            memory_arena=_switch(parameters, "enable_mem_arena"),
            memory_pattern=_switch(parameters, "enable_mem_pattern"),
            session_entries={
                # A thread that waits for the next operator by spinning keeps the core from Triton and its clients, for
                # some time after each run.
                **dict.fromkeys(SPINNING, "0"),
                **{key: parameters[key] for key in (DEVICE_ALLOCATOR, *SPINNING) if key in parameters},
            },
            run_entries={key: parameters[key] for key in (ARENA_SHRINKAGE,) if key in parameters},
            operation_libraries=config.operation_libraries,
        )


def _count(parameters: Mapping[str, str], key: str) -> int:
    # Negative counts mean the default there, too.
    return max(0, parse_whole_number(key, parameters.get(key, "0"), smallest=-1))


def _switch(parameters: Mapping[str, str], key: str) -> bool | None:
    return parse_switch(key, parameters[key]) if key in parameters else None
