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
DOCUMENTS = {
    "/v2": SERVER,
    "/v2/models/m": METADATA,
    "/v2/models/m/config": CONFIG,
    "/v2/models/m/infer": RESULT,
    "/v2/repository/index": INDEX,
    "/v2/models/stats": STATISTICS,
}
VALUES = [None, True, 3, -1, 1.5, math.nan, math.inf, 2**70, "x", "", "\x1b[2J", [], {}, [[]], ["x"], {"a": 1}]


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
    """Serves the documents, as JSON or as bytes, changed or not; over HTTP."""

    def __init__(self) -> None:
        self.documents: dict[str, object] = {}
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.headers.append(dict(self.headers))
                given = outer.documents.get(self.path, DOCUMENTS.get(self.path))
                if callable(given):
                    given = given(self.connection)
                headers: dict[str, str] = {}
                if isinstance(given, tuple):
                    given, headers = given
                body = given if isinstance(given, bytes) else json.dumps(given).encode()
                # A number is the status of an error.
                self.send_response_only(given if isinstance(given, int) else 200 if given is not None else 404)
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
    return {
        "ServerMetadata": service_pb2.ServerMetadataResponse(**SERVER),
        "ModelMetadata": metadata,
        "ModelConfig": config,
        "ModelInfer": message_of(RESULT),
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
    **{
        f"of the bytes {garbage[:12]!r}": garbage
        for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"{}", b"\x0a\x05ab", b"\x08" * 100, b"\x07", b"\0")
    },
}


class GrpcServer:
    """Serves the messages, changed or not, or bytes that are none; over gRPC."""

    def __init__(self) -> None:
        self.replies: dict[str, object] = {}
        right = messages()
        outer = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                method = details.method.rpartition("/")[2]
                if method == "ModelStreamInfer":
                    return grpc.stream_stream_rpc_method_handler(outer._stream)
                if method not in right:
                    return None
                return grpc.unary_unary_rpc_method_handler(lambda _, context: outer._bytes(method, right, context))

        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((Handler(),))
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _bytes(self, method, right, context) -> bytes:
        given = self.replies.get(method, right[method])
        if callable(given):
            given = given(context)
        return given if isinstance(given, bytes) else given.SerializeToString()

    def _stream(self, requests, _):
        next(requests)
        given = self.replies.get("ModelInfer", GOOD)
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
