"""Triton's log: its lines parsed into records, followed as they are written, and made readable."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Level", "LogFollower", "LogRecord", "clean_reason", "parse_line"]

# I1120 22:19:10.643108 8335 model_lifecycle.cc:472] "loading: bf:1"; gRPC writes more digits and spaces.
LINE = re.compile(r"([IWEF])\d{4} (\d\d:\d\d:\d\d)\.\d+\s+\d+ ([\w./-]+):\d+\] ?(.*)")
LOADING = re.compile(r"loading: (.+):\d+")
LOADED = re.compile(r"(?:successfully loaded|failed to load) '([^']+)'")
REJECTED = re.compile(r"(?:Poll failed for model directory|failed to load model) '([^']+)': (.*)", re.DOTALL)
CONFIG_SYNTAX = re.compile(r"Error parsing text-format inference\.ModelConfig: (\d+):(\d+): (.*)")
NO_BACKEND = re.compile(r"unable to find backend library for backend '([^']*)'")
NO_GPU = re.compile(
    r"instance group \S+ of model \S+ (?:has kind KIND_GPU but no GPUs|specifies invalid or unsupported gpu)"
)
# A Python-based backend's traceback, which Triton puts behind the message; the log file keeps it.
TRACEBACK = "\n\nAt:\n"
TRACEBACK_LINE = re.compile(r"At:|  /\S+\(\d+\): .+")
# Logged at every start on a machine without a GPU; there is nothing that a user could change.
EXPECTED_WITHOUT_GPU = re.compile(
    r"pinned memory pool will not be available|unable to create stream for \S+: CUDA driver version is insufficient"
    r"|CudaDriverHelper has not been initialized"
    r"|DCGM unable to start|Failed to initialize NVML|failed to load all models"
)
FOLLOW_SECONDS = 0.05
TAIL_LINES = 40


class Level(IntEnum):
    """How much a line of the log matters, least first."""

    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of Triton's log.

    Attributes:
        level: of the line; what is expected on a machine without a GPU, and Triton's tables, are DEBUG.
        time: "HH:MM:SS", or "" for what a backend printed.
        source: the file of Triton that wrote the line, or "".
        message: the text, which may have several lines.
    """

    level: Level
    time: str
    source: str
    message: str

    def __str__(self) -> str:
        lines = self.message.rstrip().splitlines() or [""]
        return "\n".join([f"{self.time or ' ' * 8} {self.level.name.lower():7} {lines[0]}", *lines[1:]])


def parse_line(line: str) -> LogRecord:
    """Read one line of Triton's log, in the default format of `--log-format`."""
    match = LINE.fullmatch(line)
    if match is None:
        ignored = line[:1] in {"+", "|", ""} or EXPECTED_WITHOUT_GPU.search(line) or TRACEBACK_LINE.fullmatch(line)
        return LogRecord(level=Level.DEBUG if ignored else Level.INFO, time="", source="", message=line)
    letter, time, source, message = match.groups()
    if message.startswith('"') and message.endswith('"'):
        try:
            message = str(json.loads(message, strict=False))
        except ValueError:
            message = message[1:-1]
    level = {"I": Level.INFO, "W": Level.WARNING}.get(letter, Level.ERROR)
    if not message.strip() or EXPECTED_WITHOUT_GPU.search(message):
        level = Level.DEBUG
    return LogRecord(level=level, time=time, source=source, message=message.partition(TRACEBACK)[0].strip())


def clean_reason(text: str) -> str:
    """The sentence inside an error of Triton: without status, exception class and Python traceback.

    Args:
        text: as the model index, the log or a response gives it.
    """
    backend = NO_BACKEND.search(text)
    if backend:
        return (
            f"its backend {backend[1]!r} is not part of this server, which has onnxruntime, openvino and python: serve"
            " it with a Triton container, or give it a configs/NAME.pbtxt for one of these"
        )
    if NO_GPU.search(text):
        return (
            "its instance_group asks for a GPU (KIND_GPU) that this machine does not have: use KIND_AUTO, or give it a"
            " configs/cpu.pbtxt with KIND_CPU, which is served where there is no GPU"
        )
    if "at least one version must be available" in text:
        return "it has no version folder that its version_policy allows, such as 1"
    if "Could not determine backend" in text:
        return "it has neither a config.pbtxt nor a version folder with a model file, such as 1/model.onnx"
    text = text.partition(TRACEBACK)[0]
    text = re.sub(r"^(?:(?:Internal|Invalid argument|Not found|Unavailable|Unsupported)(?:: | - ))+", "", text.strip())
    text = re.sub(r"^(?:\w+\.)*\w*(?:Error|Exception|Invalid\w+): ", "", text)
    return " ".join(text.split())


@dataclass(slots=True)
class LogFollower:
    """Reads a log file as it grows, in a thread of its own.

    Attributes:
        path: the file; it may not exist yet.
        on_record: called with each record, in the follower's thread.
        loading: the models that Triton has begun to load and neither finished nor given up.
        rejected: model name to reason, of the folders whose configuration Triton could not take.
        errors: the last records at level ERROR.
        tail: the last lines of the file.
    """

    path: Path
    on_record: Callable[[LogRecord], None] | None = None
    start_offset: int = 0
    loading: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)
    errors: deque[LogRecord] = field(default_factory=lambda: deque(maxlen=20))
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    _syntax: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread = threading.Thread(target=self._follow, name="plansmith-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read to the end of the file and stop."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _follow(self) -> None:
        while not self.path.exists():
            if self._stop.wait(FOLLOW_SECONDS):
                return
        with self.path.open("rb") as file:
            file.seek(self.start_offset)
            rest = b""
            while True:
                ending = self._stop.is_set()
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace"))
                if ending:
                    return
                self._stop.wait(FOLLOW_SECONDS)

    def _take(self, line: str) -> None:
        self.tail.append(line)
        record = parse_line(line)
        if record.level is Level.ERROR:
            self.errors.append(record)
        self._note_progress(record)
        self._note_rejection(record)
        if self.on_record is not None:
            self.on_record(record)

    def _note_progress(self, record: LogRecord) -> None:
        if record.source != "model_lifecycle.cc":
            return
        begun, ended = LOADING.fullmatch(record.message), LOADED.match(record.message)
        if begun:
            self.loading.add(begun[1])
        elif ended:
            self.loading.discard(ended[1])

    def _note_rejection(self, record: LogRecord) -> None:
        syntax = CONFIG_SYNTAX.search(record.message)
        if syntax:
            # The line that names the model comes next, and says nothing of what is wrong.
            self._syntax = f"its config.pbtxt cannot be read: line {syntax[1]}, column {syntax[2]}: {syntax[3]}"
            return
        rejection = REJECTED.match(record.message)
        if rejection:
            name, reason = rejection.groups()
            readable = self._syntax if "failed to read text proto" in reason and self._syntax else clean_reason(reason)
            self.rejected[name] = readable
        self._syntax = ""
