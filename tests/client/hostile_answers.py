"""A model of a server that lies: right answers over both protocols, and tables of what a hostile server makes of them.

The model `m` takes `x`, FP32 [-1, 4], and answers with `y`, FP32 [-1, 4], and `n`, INT32 [-1, 1].
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

SERVER = {"name": "s", "version": "1", "extensions": ["binary_tensor_data", "system_shared_memory"]}
METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "n", "datatype": "INT32", "shape": [-1, 1]},
    ],
}
CONFIG = {"name": "m", "max_batch_size": 8, "input": [{"name": "x", "optional": False}]}
RESULT = {
    "model_name": "m",
    "model_version": "1",
    "id": "mine",
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [0.5, 1, 2, 3]},
        {"name": "n", "datatype": "INT32", "shape": [1, 1], "data": [7]},
    ],
}
INDEX = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
STATISTICS = {
    "model_stats": [
        {
            "name": "m",
            "version": "1",
            "last_inference": 1000,
            "inference_count": 1,
            "execution_count": 1,
            "inference_stats": {"success": {"count": 1, "ns": 5}},
            "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 1, "ns": 5}}],
        }
    ]
}
CLASSES = {
    **RESULT,
    "id": "",
    "outputs": [{"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["3.5:3:three"]}],
}
EVENT = {"model_name": "m", "model_version": "1", "id": "mine", "y": [0.5, 1, 2, 3], "n": 7, "more": 1}
TRACE = {"trace_level": ["OFF"], "trace_rate": "1000", "log_frequency": 0}
LOG = {"log_file": "", "log_info": True, "log_verbose_level": 0, "log_format": "default"}
DOCUMENTS = {
    **{path: {} for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready")},
    "/v2": SERVER,
    "/v2/models": {"models": ["m"]},
    "/v2/models/m": METADATA,
    "/v2/models/m/config": CONFIG,
    "/v2/models/m/infer": RESULT,
    "/v2/models/m/generate_stream": EVENT,
    "/v2/models/m/stats": STATISTICS,
    "/v2/models/stats": STATISTICS,
    "/v2/repository/index": INDEX,
    "/v2/repository/models/m/load": {},
    "/v2/repository/models/m/unload": {},
    "/v2/trace/setting": TRACE,
    "/v2/logging": LOG,
    "/v2/systemsharedmemory/status": [],
}
VALUES = [None, True, 3, -1, 1.5, math.nan, math.inf, 2**70, "x", "", "\x1b[2J", [], {}, [[]], ["x"], {"a": 1}]
VALUES += ["9" * 5000, "\ud800", 10**400, [2**62, 2**62]]
# Whole bodies of answers, and the statuses that they come with.
BODIES = [
    *(b"", b"\xff", b"[" * 100_000, b'{"a":', b"9" * 5000, b'"', b"<html></html>", b"\0"),
    *(b"data: {}\n\n", b"data: [\n\n"),
    *(json.dumps(value).encode() for value in VALUES),
    *(b'{"error": %b}' % json.dumps(value).encode() for value in VALUES),
]
STATUSES = [200, 204, 302, 400, 401, 404, 408, 429, 500, 501, 503, 599]


def changed(document, *path_and_value):
    """The document with one of its places changed, or removed if the value is `...`."""
    *path, last, value = path_and_value
    copied = copy.deepcopy(document)
    place = copied
    for step in path:
        place = place[step]
    if value is ...:
        del place[last]
    elif last == "+":
        place.append(value)
    else:
        place[last] = value
    return copied


def altered(message):
    """The message with one of its fields changed, whichever type it has; and bytes that are none."""

    def copied(change):
        changed = type(message)()
        changed.CopyFrom(message)
        change(changed)
        return changed

    for field, value in message.ListFields():
        name = field.name
        yield copied(lambda one, name=name: one.ClearField(name))
        if field.message_type is not None and not hasattr(value, "items"):
            several = hasattr(value, "add")
            for place, part in enumerate(value if several else [value]):
                for changed in altered(part):
                    yield copied(
                        lambda one, changed=changed, place=place, name=name, several=several: (
                            getattr(one, name)[place] if several else getattr(one, name)
                        ).CopyFrom(changed)
                    )
            if several:
                yield copied(lambda one, name=name, value=value: getattr(one, name).extend(value))
        elif isinstance(value, (str, bool, int)):
            for other in {str: ["", "x", "\x1b[2J", "a:b:c", "9" * 5000], bool: [not value]}.get(
                type(value), [0, -1, 2**31 - 1, 2**63 - 1]
            ):
                with contextlib.suppress(ValueError):
                    yield copied(lambda one, name=name, other=other: setattr(one, name, other))
        elif isinstance(value[0] if not hasattr(value, "items") else None, int):
            yield from (
                copied(lambda one, name=name, more=more: getattr(one, name).append(more))
                for more in ([-1, 2**62] if field.cpp_type == field.CPPTYPE_INT64 else [1])
            )


def leaves(document, path=()):
    """The paths of all places of a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from leaves(value, (*path, key))


def output(**members):
    return {**RESULT["outputs"][0], **members}


# The answer to an inference, changed; each has to be refused.
RESULTS = {
    "of another model": changed(RESULT, "model_name", "other"),
    "of no model": changed(RESULT, "model_name", ""),
    "to another request": changed(RESULT, "id", "not-yours"),
    "without outputs": changed(RESULT, "outputs", []),
    "with one of two outputs": changed(RESULT, "outputs", RESULT["outputs"][:1]),
    "with an output twice": changed(RESULT, "outputs", "+", RESULT["outputs"][0]),
    "with an output twice, of other values": changed(RESULT, "outputs", "+", output(data=[9, 9, 9, 9])),
    "with an output more": changed(RESULT, "outputs", "+", output(name="evil")),
    "with an output of another name": changed(RESULT, "outputs", 0, "name", "z"),
    "with an output without a name": changed(RESULT, "outputs", 0, "name", ""),
    "with the outputs' names exchanged": changed(changed(RESULT, "outputs", 0, "name", "n"), "outputs", 1, "name", "y"),
    **{
        f"of {datatype} instead of FP32": changed(RESULT, "outputs", 0, output(datatype=datatype, data=[0, 1, 2, 3]))
        for datatype in ("INT64", "INT32", "UINT8", "FP64")
    },
    "of bytes instead of FP32": changed(RESULT, "outputs", 0, output(datatype="BYTES", data=["a", "b", "c", "d"])),
    "of truth values instead of FP32": changed(RESULT, "outputs", 0, output(datatype="BOOL", data=[True] * 4)),
    "of an unknown datatype": changed(RESULT, "outputs", 0, "datatype", "FP99"),
    "of the datatype fp32": changed(RESULT, "outputs", 0, "datatype", "fp32"),
    "of no datatype": changed(RESULT, "outputs", 0, "datatype", ""),
    **{
        f"of the shape {shape}": changed(RESULT, "outputs", 0, "shape", shape)
        for shape in ([4, 1], [4], [2, 2], [1, 4, 1], [], [-1, 4], [1, -4], [0, 4], [2, 4], [1, 5], [2**62, 4], [2**31])
    },
    "of two rows for one": changed(RESULT, "outputs", 0, output(shape=[2, 4], data=[0] * 8)),
    "of no rows": changed(RESULT, "outputs", 0, output(shape=[0, 4], data=[])),
    "with too few values": changed(RESULT, "outputs", 0, "data", [1, 2, 3]),
    "with too many values": changed(RESULT, "outputs", 0, "data", [1, 2, 3, 4, 5]),
    "with no values": changed(RESULT, "outputs", 0, "data", []),
}
# Values that the datatype does not hold, in JSON alone: protobuf's fields have types of their own.
FORCED = {
    f"{value!r} as {datatype}": (datatype, value)
    for datatype, values in {
        "INT32": (300_000_000_000, 1.5, math.nan, math.inf, True, "7", "x", [], {}, 2**70),
        "UINT8": (300, -1, 255.5, math.nan),
        "INT8": (128, -129),
        "UINT64": (-1, 2**64, 0.5),
        "INT64": (2**63, -(2**63) - 1, 1e19, 0.5),
        "BOOL": (2, -1, 0.5, "true", math.nan),
        "FP32": (1e300, "1.5", "NaN", True, [], {}, 2**200, 10**400),
        "FP64": ("1", True, {}, 10**400),
        "BYTES": (1, None, True, [], {}, 1.5),
    }.items()
    for value in values
}
METADATAS = {
    "of another model": changed(METADATA, "name", "other"),
    "of no model": changed(METADATA, "name", ""),
    "of an input twice": changed(METADATA, "inputs", "+", METADATA["inputs"][0]),
    "of an output twice": changed(METADATA, "outputs", "+", METADATA["outputs"][0]),
    "of an input without a name": changed(METADATA, "inputs", 0, "name", ""),
    **{f"of the shape {shape}": changed(METADATA, "inputs", 0, "shape", shape) for shape in ([-2, 4], [-(2**40)])},
}


class HttpServer:
    """Serves the documents, as JSON or as bytes, changed or not; over HTTP. For `...` it drops the connection."""

    def __init__(self) -> None:
        self.documents: dict[str, object] = {}
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                question = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.headers.append(dict(self.headers))
                outer.asked.append(self.path)
                right = CLASSES if b'"classification"' in question else DOCUMENTS.get(self.path)
                given = outer.documents.get(self.path, right)
                if callable(given):
                    given = given(self.connection)
                if given is ...:
                    self.close_connection = True
                    return
                headers: dict[str, str] = {}
                status = 200 if given is not None else 404
                if isinstance(given, tuple):
                    given, headers, *stated = given
                    status = stated[0] if stated else status
                body = given if isinstance(given, bytes) else json.dumps(given).encode()
                if self.path.endswith("generate_stream") and not isinstance(given, (bytes, int)):
                    body, headers = b"data: " + body + b"\n\n", {"Content-Type": "text/event-stream"}
                # A number is the status of an error.
                self.send_response_only(given if isinstance(given, int) else status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            do_POST = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def binary_result(document, *, blobs: bytes | None = None, length: str | None = None):
    """The answer of an inference with its tensors as bytes: body and headers."""
    header, body = copy.deepcopy(document), b""
    for one in header["outputs"]:
        data = one.pop("data")
        raw = b"".join(int(value).to_bytes(4, "little") for value in data)
        one["parameters"] = {"binary_data_size": len(raw)}
        body += raw
    encoded = json.dumps(header).encode()
    return encoded + (body if blobs is None else blobs), {
        "Inference-Header-Content-Length": length or str(len(encoded))
    }


def messages():
    """The right answers over gRPC, by method."""
    metadata = service_pb2.ModelMetadataResponse(name="m", versions=["1"], platform="p")
    for kind in ("inputs", "outputs"):
        for one in METADATA[kind]:
            getattr(metadata, kind).add(**one)
    config = service_pb2.ModelConfigResponse()
    config.config.name, config.config.max_batch_size = "m", 8
    config.config.input.add(name="x")
    index = service_pb2.RepositoryIndexResponse()
    for one in INDEX:
        index.models.add(**one)
    statistics = json_format.ParseDict(STATISTICS, service_pb2.ModelStatisticsResponse())
    trace, log = service_pb2.TraceSettingResponse(), service_pb2.LogSettingsResponse()
    trace.settings["trace_level"].value.append("OFF")
    log.settings["log_info"].bool_param = True
    return {
        "ServerLive": service_pb2.ServerLiveResponse(live=True),
        "ServerReady": service_pb2.ServerReadyResponse(ready=True),
        "ModelReady": service_pb2.ModelReadyResponse(ready=True),
        "ServerMetadata": service_pb2.ServerMetadataResponse(**SERVER),
        "ModelMetadata": metadata,
        "ModelConfig": config,
        "ModelInfer": message_of(RESULT),
        "ModelStatistics": statistics,
        "RepositoryIndex": index,
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadResponse(),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadResponse(),
        "TraceSetting": trace,
        "LogSettings": log,
        "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusResponse(),
    }


def message_of(document):
    """An inference's answer as a message, its values in typed fields."""
    kinds = ("int", "int64", "uint", "fp64", "bool", "bytes")
    datatypes = ("INT32", "INT64", "UINT8", "FP64", "BOOL", "BYTES")
    fields = {datatype: f"{kind}_contents" for datatype, kind in zip(datatypes, kinds, strict=True)}
    reply = service_pb2.ModelInferResponse(
        model_name=document["model_name"], model_version=document["model_version"], id=document["id"]
    )
    for one in document["outputs"]:
        added = reply.outputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        values = [value.encode() if isinstance(value, str) else value for value in one["data"]]
        getattr(added.contents, fields.get(one["datatype"], "fp32_contents")).extend(values)
    return reply


def raw(reply, *contents: bytes):
    """The message with these bytes instead of typed fields."""
    copied = type(reply)()
    copied.CopyFrom(reply)
    for one in copied.outputs:
        one.ClearField("contents")
    copied.raw_output_contents.extend(contents)
    return copied


def mixed(reply):
    copied = type(reply)()
    copied.CopyFrom(reply)
    copied.outputs[0].contents.int_contents.extend([1, 2, 3, 4])
    return copied


GOOD = message_of(RESULT)
FOUR = b"\0" * 4
REPLIES = {
    **{kind: message_of(document) for kind, document in RESULTS.items()},
    "without outputs but raw bytes": service_pb2.ModelInferResponse(
        model_name="m", id="mine", raw_output_contents=[b"x"]
    ),
    "empty": service_pb2.ModelInferResponse(),
    "of the raw bytes of one output": raw(GOOD, FOUR * 4),
    "of the raw bytes of three outputs": raw(GOOD, FOUR * 4, FOUR, FOUR),
    "of too few raw bytes": raw(GOOD, FOUR * 3, FOUR),
    "of too many raw bytes": raw(GOOD, FOUR * 5, FOUR),
    "of a raw byte too many": raw(GOOD, FOUR * 4 + b"\0", FOUR),
    "of values of two types": mixed(GOOD),
    "of values and of raw bytes": service_pb2.ModelInferResponse.FromString(
        GOOD.SerializeToString()
        + service_pb2.ModelInferResponse(raw_output_contents=[FOUR * 4, FOUR]).SerializeToString()
    ),
    **{
        f"of the bytes {garbage[:12]!r}": garbage
        for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"{}", b"\x0a\x05ab", b"\x08" * 100, b"\x07", b"\0")
    },
}


class GrpcServer:
    """Serves the messages, changed or not, or bytes that are none; over gRPC."""

    def __init__(self) -> None:
        self.replies: dict[str, object] = {}
        self.asked: list[str] = []
        right = messages()
        outer = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                method = details.method.rpartition("/")[2]
                outer.asked.append(method)
                if method == "ModelStreamInfer":
                    return grpc.stream_stream_rpc_method_handler(outer._stream)
                if method not in right:
                    return None
                return grpc.unary_unary_rpc_method_handler(
                    lambda question, context: outer._bytes(method, right, context, question)
                )

        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((Handler(),))
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _bytes(self, method, right, context, question) -> bytes:
        classified = b"classification" in question
        given = self.replies.get(method, message_of(CLASSES) if classified else right[method])
        if callable(given):
            given = given(context)
        return given if isinstance(given, bytes) else given.SerializeToString()

    def _stream(self, requests, context):
        next(requests)
        given = self.replies.get("ModelStreamInfer", self.replies.get("ModelInfer", GOOD))
        if callable(given):
            given = given(context)
        if not isinstance(given, service_pb2.ModelInferResponse):
            yield given if isinstance(given, bytes) else given.SerializeToString()
        else:
            yield service_pb2.ModelStreamInferResponse(infer_response=given).SerializeToString()

    def stop(self) -> None:
        self._server.stop(None).wait()


@contextlib.contextmanager
def serving(kind):
    server = kind()
    try:
        yield server
    finally:
        server.stop()
