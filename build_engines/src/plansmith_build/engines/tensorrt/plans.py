"""Building plans, and putting weights back into stripped ones.

Checked against NVIDIA's own bindings of TensorRT 10 and 11 by tests/build/test_tensorrt_contract.py, which reads this
file: the names of the variables there say which class each is of.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plansmith_build.engines.tensorrt.options import HardwareCompatibility
from plansmith_build.errors import BuildError
from plansmith_build.progress import BuildStep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build.engines.tensorrt.options import PlanOptions
    from plansmith_build.engines.tensorrt.profiles import OptimizationProfile
    from plansmith_build.progress import Progress

__all__ = ["PlanFailed", "build_plan", "load_plan", "on_device", "refit_plan"]


class PlanFailed(BuildError):
    """TensorRT does not parse or compile a graph; a candidate fails by it, and the build goes on with the others."""


def build_plan(
    model: Path,
    path: Path,
    shapes: OptimizationProfile,
    options: PlanOptions,
    *,
    device: int,
    compute_capability: str,
    progress: Progress,
) -> None:
    """Compile a graph for the GPU it runs on.

    Raises:
        PlanFailed: TensorRT does not parse or compile it; parser errors name the node.
        OSError: the disk did not take it.
        KeyboardInterrupt: after Ctrl-C, which TensorRT is told of.
    """
    import tensorrt as trt  # noqa: PLC0415 - gigabytes that only GPU machines have

    logger = _logger_with_plugins()
    with on_device(device):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(os.fspath(model)):
            raise PlanFailed(_parser_errors(parser))
        config = builder.create_builder_config()
        _configure(config, options)
        for part in shapes.each:
            _add_profile(builder, network, config, part)
        monitor = _monitor(trt, f"Building a TensorRT {trt.__version__} plan for {compute_capability}", progress)
        config.progress_monitor = monitor
        timings = timing_cache_of(options, device)
        _load_timing_cache(config, timings)
        with _until_interrupted(monitor):
            serialized = builder.build_serialized_network(network, config)
        if monitor.interrupted:
            raise KeyboardInterrupt
        if serialized is None:
            raise PlanFailed("TensorRT could not build an engine from the graph; its log on standard error says why")
        path.write_bytes(serialized)
        _save_timing_cache(config, timings, progress)


def load_plan(path: Path, *, version_compatible: bool = False) -> tuple[Any, Any]:
    """A plan on the GPU that is current.

    Args:
        path: the plan.
        version_compatible: whether it was built so: it then holds code for the CPU, too, which has to be allowed.

    Returns:
        The runtime, which must live as long, and the engine, or None where TensorRT does not load it.

    Raises:
        OSError: it cannot be read.
    """
    import tensorrt as trt  # noqa: PLC0415 - as above

    runtime = trt.Runtime(_logger_with_plugins())
    if version_compatible:
        runtime.engine_host_code_allowed = True
    return runtime, runtime.deserialize_cuda_engine(path.read_bytes())


def _logger_with_plugins() -> Any:
    """A logger, after the operators that TensorRT has as plugins are known: without, the parser does not find them."""
    import tensorrt as trt  # noqa: PLC0415 - as above

    logger = trt.Logger(trt.Logger.ERROR)
    trt.init_libnvinfer_plugins(logger, "")
    return logger


def refit_plan(plan: Path, model: Path, path: Path, *, device: int = 0, version_compatible: bool = False) -> None:
    """Put the weights of an ONNX file into a plan that was stripped of them.

    Args:
        plan: the stripped plan, on a GPU that it was built for.
        model: the ONNX file that it was built from.
        path: where the whole plan is written.
        device: the number of the GPU.
        version_compatible: whether the plan was built so.

    Raises:
        PlanFailed: the plan does not load, or the weights are not its own.
        OSError: a file cannot be read or written.
    """
    import tensorrt as trt  # noqa: PLC0415 - as above

    with on_device(device):
        runtime, engine = load_plan(plan, version_compatible=version_compatible)
        if engine is None:
            raise PlanFailed(f"{plan} does not load: was it built by another TensorRT, or for another GPU?")
        logger = runtime.logger
        refitter = trt.Refitter(engine, logger)
        parser_refitter = trt.OnnxParserRefitter(refitter, logger)
        if not parser_refitter.refit_from_file(os.fspath(model)) or not refitter.refit_cuda_engine():
            missing = ", ".join(refitter.get_missing_weights()[:5])
            raise PlanFailed(
                f"the weights of {model} are not those of {plan}{': missing ' + missing if missing else ''}"
            )
        serialization = engine.create_serialization_config()
        serialization.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
        path.write_bytes(engine.serialize_with_config(serialization))


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Let CUDA calls of this thread go to one of the GPUs."""
    from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

    (status,) = cuda.cudaSetDevice(device)
    if status != cuda.cudaError_t.cudaSuccess:
        raise PlanFailed(f"the GPU {device} cannot be used: {status.name}")
    yield


def _configure(config: Any, options: PlanOptions) -> None:
    import tensorrt as trt  # noqa: PLC0415 - as above

    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    match options.hardware_compatibility:
        case HardwareCompatibility.AMPERE_PLUS:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        case HardwareCompatibility.SAME_COMPUTE_CAPABILITY:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    # FP32 is to mean FP32: TF32 rounds to 10 bits without being asked.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.sparse_weights:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)


def _add_profile(builder: Any, network: Any, config: Any, shapes: OptimizationProfile) -> None:
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        if -1 in tuple(tensor.shape):
            name = tensor.name
            profile.set_shape(name, shapes.minimum[name], shapes.optimum[name], shapes.maximum[name])
    config.add_optimization_profile(profile)


def _parser_errors(parser: Any) -> str:
    sentences = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
        sentences.append(f"{where}{' '.join(error.desc().split())[:200]}")
    return f"TensorRT does not take the graph: {'; '.join(sentences) or 'its parser gives no reason'}"


def timing_cache_of(options: PlanOptions, device: int) -> Path | None:
    """The file for one kind of GPU and one version: timings of another would throw these away."""
    import tensorrt as trt  # noqa: PLC0415 - as above
    from cuda.bindings import runtime as cuda  # noqa: PLC0415

    if options.timing_cache is None:
        return None
    status, properties = cuda.cudaGetDeviceProperties(device)
    gpu = properties.name.decode() if status == cuda.cudaError_t.cudaSuccess else f"gpu {device}"
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-").lower()
    file = options.timing_cache
    return file.with_name(f"{file.stem}.{name}.{trt.__version__}{file.suffix}")


def _load_timing_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    # One of another device or version is refused here, and a new one takes its place.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)


def _save_timing_cache(config: Any, path: Path | None, progress: Progress) -> None:
    if path is None:
        return
    cache = config.get_timing_cache()
    # Two builders may write at once: each its own file, the last one stays.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(cache.serialize())
        temporary.replace(path)
    except OSError as error:
        # The plan is there; a cache only makes the next one quicker.
        progress(BuildStep("Timing cache", f"not kept: {error}"))


@contextmanager
def _until_interrupted(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C set a flag while TensorRT builds.

    Python raises KeyboardInterrupt as it enters the method that TensorRT calls, before a `try` there, and the bindings
    swallow every exception.
    """

    def interrupt(_number: int, _frame: Any) -> None:
        monitor.interrupted = True

    # Only the main thread may say what a signal does, and nothing can where a program other than Python set it.
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, title: str, progress: Progress) -> Any:
    """TensorRT's own progress, phase by phase, on ours; Ctrl-C ends the build at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._phases[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                steps = self._phases.get(phase_name, 0)
                done = (step + 1) / steps if steps else None
                progress(BuildStep(f"{title}: {phase_name}, {step + 1} of {steps}", done=done))
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

    return Monitor()
