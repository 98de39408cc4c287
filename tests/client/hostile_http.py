"""HTTP answers as bytes: recorded ones, unusual ones and hostile ones, each with what a client makes of it.

The question is always for the server's metadata; `READ` gives its name "a", `REFUSED` a typed error.
"""

from __future__ import annotations

import gzip
import zlib

from plansmith_client import (
    AccessDenied,
    DeadlineExceeded,
    InvalidInput,
    ProtocolError,
    ServerOverloaded,
    ServerUnavailable,
)

BODY = b'{"name": "a", "version": "1", "extensions": []}'
OTHER = b'{"name": "b", "version": "2", "extensions": []}'
LARGEST = 100_000


def answer(body: bytes = BODY, *headers: bytes, status: bytes = b"200 OK", length: bool = True) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, *([b"Content-Length: %d" % len(body)] if length else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return answer(framed + b"0\r\n" + trailers + b"\r\n", b"Transfer-Encoding: chunked", length=False)


def packed(body: bytes, coding: bytes = b"gzip", pack=gzip.compress) -> bytes:
    return answer(pack(body), b"Content-Encoding: " + coding)


def bare_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"

# Answers that are read: the name that comes out, and whether the connection is kept.
READ = {
    "length": (answer(), True),
    "a header without a value": (answer(BODY, b"X-Empty:"), True),
    "a header twice": (answer(BODY, b"Server: a", b"server: b"), True),
    "no space after the colon": (answer(BODY, b"Server:a"), True),
    "no reason": (answer(status=b"200 "), True),
    "another reason": (answer(status=b"200 Splendid"), True),
    "chunks": (chunked(BODY, 7), True),
    "chunks of one byte": (chunked(BODY, 1), True),
    "one chunk": (chunked(BODY, 1000), True),
    "chunk extensions": (chunked(BODY, 9, extension=b";a=b"), True),
    "trailers": (chunked(BODY, 7, b"Content-Encoding: gzip\r\nContent-Type: text/html\r\n"), True),
    "upper case chunked": (chunked(BODY, 7).replace(b": chunked", b": Chunked"), True),
    "until the end": (answer(BODY, b"Server: old", length=False), False),
    "version 1.0": (answer().replace(b"1.1", b"1.0"), False),
    "connection: close": (answer(BODY, b"Connection: close"), False),
    "informational first": (CONTINUE + answer(), True),
    "several informational": (CONTINUE + HINTS + CONTINUE + answer(), True),
    "identity": (answer(BODY, b"Content-Encoding: identity"), True),
    "gzip": (packed(BODY), True),
    "x-gzip": (packed(BODY, b"x-gzip"), True),
    "gzip of two members": (packed(BODY, pack=lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])), True),
    "padded": (answer(BODY + b" " * 70_000), True),
    # The first answer is the answer; what follows it costs the connection.
    "two answers": (answer() + answer(OTHER), False),
    "two answers, the second informational": (answer() + CONTINUE, False),
    "two answers in chunks": (chunked(BODY, 7) + chunked(OTHER, 7), False),
    "an answer and garbage": (answer() + b"garbage", False),
    "an answer and half of another": (answer() + answer(OTHER)[:30], False),
    "an answer and a switch": (
        answer() + b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        False,
    ),
    "a longer body than its length": (answer() + b"}}}}", False),
}

TRITON = b'{"name":"a","version":"2.51.0","extensions":["classification","sequence","binary_tensor_data","logging"]}'

# As servers and what stands before them send it.
READ |= {
    "Triton": (answer(TRITON, b"Content-Type: application/json"), True),
    "uvicorn": (
        answer(BODY, b"date: Fri, 27 Nov 2026 04:00:00 GMT", b"server: uvicorn", b"content-type: application/json"),
        True,
    ),
    "nginx": (
        chunked(BODY, 4096).replace(b"\r\n", b"\r\nServer: nginx/1.22.1\r\nConnection: keep-alive\r\n", 1),
        True,
    ),
    "Python's http.server": (
        answer(BODY, b"Server: SimpleHTTP/0.6 Python/3.11", length=False).replace(b"1.1", b"1.0"),
        False,
    ),
    "an old proxy": (answer(BODY, b"Connection: keep-alive").replace(b"1.1", b"1.0"), True),
    "envoy": (answer(BODY, b"x-envoy-upstream-service-time: 1", b"server: istio-envoy", b"Via: 1.1 google"), True),
}

READ |= {
    f"{name} spaces": (answer(BODY, value), True)
    for name, value in (
        ("leading", b"Server:    a"),
        ("trailing", b"Server: a   "),
        ("tab", b"Server:\ta\t"),
        ("inner", b"Server: a  b"),
    )
}
READ |= {
    f"the header {name}": (answer(BODY, value), True)
    for name, value in (
        ("of Latin letters", b"Server: caf\xe9"),
        ("of UTF-8", "Server: caf\u00e9".encode()),
        ("of colons", b"Server: a:b:c"),
        ("of a long value", b"Server: " + b"x" * 8000),
        ("of odd letters", b"!#$%&'*+-.^_`|~: a"),
        ("of a cookie", b"Set-Cookie: a=b; Path=/; HttpOnly"),
        ("alone", b"Strict-Transport-Security: max-age=1"),
        ("of an alternative service", b'Alt-Svc: h3=":443"; ma=86400'),
        ("of a proxy's keep-alive", b"Keep-Alive: timeout=5, max=1000"),
        ("of an upgrade offered", b"Upgrade: h2c"),
        ("Trailer", b"Trailer: X-Checksum"),
        ("of a range", b"Accept-Ranges: bytes"),
        ("of an empty coding", b"Content-Encoding:"),
    )
}
READ |= {f"{status} first": (b"HTTP/1.1 %d\x20\r\n\r\n" % status + answer(), True) for status in (100, 102, 103, 199)}
READ |= {f"{count} times continue": (CONTINUE * count + answer(), True) for count in (2, 10)}
READ |= {f"chunks of {size}": (chunked(BODY, size), True) for size in (2, 3, 5, 11, 46, 47)}
READ |= {
    f"{name} chunk sizes": (chunked(BODY, 12).replace(b"\r\nc\r\n", size), True)
    for name, size in (
        ("upper case", b"\r\nC\r\n"),
        ("zero-padded", b"\r\n000c\r\n"),
        ("extended", b'\r\nc;a="b;c"\r\n'),
    )
}
READ |= {
    f"trailers {name}": (chunked(BODY, 9, trailers), True)
    for name, trailers in (
        ("of a coding", b"Transfer-Encoding: chunked\r\n"),
        ("of many", b"".join(b"X-%d: y\r\n" % number for number in range(50))),
    )
}
READ |= {
    f"the reason {name}": (answer(status=b"200 " + reason), True)
    for name, reason in (
        ("of bytes", b"\xff\xfe"),
        ("of numbers", b"404"),
        ("of a line", b"OK " * 100),
    )
}
READ |= {
    f"JSON {name}": (answer(body), True)
    for name, body in (
        ("with white space", b" \r\n\t" + BODY + b"\n"),
        ("in UTF-16", BODY.decode().encode("utf-16")),
        ("escaped", BODY.replace(b'"a"', b'"\\u0061"')),
        ("of unknown members", BODY[:-1] + b', "more": {"a": [1, 2.5, null, true]}}'),
        ("of null members", b'{"name": "a", "version": null, "extensions": null}'),
        ("without members", b'{"name": "a"}'),
        ("of the same name twice", b'{"name": "b", "name": "a"}'),
    )
}
READ |= {
    f"gzip of level {level}": (packed(BODY, pack=lambda body, level=level: gzip.compress(body, level)), True)
    for level in (0, 1, 9)
}
READ |= {
    "gzip in chunks": (
        chunked(gzip.compress(BODY), 5).replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer", 1),
        True,
    ),
    "an answer and a space": (answer() + b" ", False),
    "an answer and a line": (answer() + b"\r\n", True),
    "an answer and a NUL": (answer() + b"\0", False),
    "three answers": (answer() + answer(OTHER) * 2, False),
    "an answer and an error": (answer() + answer(b"", status=b"500 Oops"), False),
    "an answer and a timeout": (answer() + answer(b"", b"Connection: close", status=b"408 Request Timeout"), False),
    "trailers of an end": (chunked(BODY, 9, b"Connection: close\r\n"), False),
    "chunks and garbage": (chunked(BODY, 7) + b"x", False),
    "connection: Close": (answer(BODY, b"connection: Close"), False),
    "close among others": (answer(BODY, b"Connection: x, close"), False),
}

BOMB = gzip.compress(b" " * (LARGEST * 50) + BODY)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n"

REFUSED = {
    "an unknown length": (answer(BODY, b"Content-Length: x", length=False), ProtocolError),
    "a negative length": (answer(BODY, b"Content-Length: -1", length=False), ProtocolError),
    "two lengths": (answer(BODY, b"Content-Length: 1"), ProtocolError),
    "a length and chunks": (
        chunked(BODY, 7).replace(b"chunked\r\n", b"chunked\r\nContent-Length: 5\r\n"),
        ProtocolError,
    ),
    "a length beyond all numbers": (answer(BODY, b"Content-Length: 9" + b"9" * 40, length=False), ProtocolError),
    "a bad chunk": (answer(b"zz\r\n", b"Transfer-Encoding: chunked", length=False), ProtocolError),
    "a chunk without its end": (chunked(BODY, 7).replace(b"\r\n0", b"xx0"), ProtocolError),
    "another transfer coding": (answer(BODY, b"Transfer-Encoding: gzip", length=False), ProtocolError),
    "version 9.9": (b"HTTP/9.9 200 OK\r\n\r\n", ProtocolError),
    "HTTP/2's preface": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", ProtocolError),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n", ProtocolError),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", ProtocolError),
    "a header with a NUL": (answer(BODY, b"X: a\0b"), ProtocolError),
    "a header without a colon": (answer(BODY, b"nonsense here"), ProtocolError),
    "a space before the colon": (answer(BODY, b"Server : a"), ProtocolError),
    "a switch": (SWITCH + b"\r\n" + answer(), ProtocolError),
    "a switch with its headers": (SWITCH + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ProtocolError),
    "not gzip": (answer(BODY, b"Content-Encoding: gzip"), ProtocolError),
    "cut gzip": (answer(gzip.compress(BODY)[:-9], b"Content-Encoding: gzip"), ProtocolError),
    "gzip and garbage": (answer(gzip.compress(BODY) + b"garbage", b"Content-Encoding: gzip"), ProtocolError),
    "brotli": (packed(BODY, b"br"), ProtocolError),
    "deflate": (packed(BODY, b"deflate", zlib.compress), ProtocolError),
    "gzip in gzip": (packed(BODY, b"gzip, gzip"), ProtocolError),
    "a bomb": (answer(BOMB, b"Content-Encoding: gzip"), ProtocolError),
    "too large": (answer(b" " * LARGEST + BODY), ProtocolError),
    "too large in chunks": (chunked(b" " * LARGEST + BODY, 50_000), ProtocolError),
    "too large without a length": (answer(b" " * LARGEST + BODY, length=False), ProtocolError),
    "headers without end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 600_000, ProtocolError),
    "many headers": (answer(BODY, *(b"X-%d: y" % number for number in range(20_000))), ProtocolError),
    "not JSON": (answer(b"<html></html>", b"Content-Type: text/html"), ProtocolError),
    "an empty answer": (answer(b""), ProtocolError),
    "nothing": (b"", ServerUnavailable),
    "one byte": (b"H", ServerUnavailable),
    "half a status": (b"HTTP/1.1 20", ServerUnavailable),
    "half a header": (b"HTTP/1.1 200 OK\r\nContent-Le", ServerUnavailable),
    "half a body": (answer()[:-9], ServerUnavailable),
    "half a chunk": (chunked(BODY, 7)[:-20], ServerUnavailable),
    "no last chunk": (chunked(BODY, 7)[:-5], ServerUnavailable),
    "informational only": (CONTINUE, ServerUnavailable),
    "overload": (answer(b'{"error": "wait"}', status=b"503 Service Unavailable"), ServerUnavailable),
}

# Statuses: what each means for a question about the server.
REFUSED |= {
    f"status {status}": (answer(b'{"error": "no"}', status=b"%d X" % status), kind)
    for kind, statuses in {
        ProtocolError: (
            201,
            202,
            203,
            206,
            299,
            300,
            301,
            302,
            307,
            308,
            400,
            402,
            404,
            405,
            406,
            410,
            418,
            451,
            500,
            501,
            505,
            599,
        ),
        AccessDenied: (401, 403, 407),
        DeadlineExceeded: (408, 504),
        InvalidInput: (431,),
        ServerOverloaded: (429,),
        ServerUnavailable: (502,),
    }.items()
    for status in statuses
}
REFUSED |= {
    f"a status of {name}": (b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}", ProtocolError)
    for name, status in (
        ("zero", b"0 X"),
        ("two digits", b"20 OK"),
        ("four digits", b"2000 OK"),
        ("minus", b"-200 OK"),
        ("letters", b"2OO OK"),
        ("999", b"999 X"),
    )
}
REFUSED |= {
    f"the first line {line!r}": (line + b"\r\nContent-Length: 2\r\n\r\n{}", ProtocolError)
    for line in (
        b"http/1.1 200 OK",
        b"HTTP/1.1200 OK",
        b"HTTP/2 200",
        b"HTTP/1 200 OK",
        b"HTTP/1.1\t200 OK",
        b"ICY 200 OK",
        b"RTSP/1.0 200 OK",
        b"GET / HTTP/1.1",
        b"220 mail.example.com ESMTP",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"{}",
        b"\xff\xff\xff\xff",
    )
}
REFUSED |= {
    f"JSON that is {name}": (answer(body), ProtocolError)
    for name, body in (
        ("a list", b"[]"),
        ("a number", b"7"),
        ("a string", b'"a"'),
        ("null", b"null"),
        ("cut", BODY[:-1]),
        ("followed by more", BODY + b"{}"),
        ("nested", b"[" * 100_000),
        ("nested in the name", b'{"name": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        ("not UTF-8", b'{"name": "\xff"}'),
        ("a lone quote", b'"'),
        ("NUL", b"\0"),
        ("a control character", b'{"name": "\x01"}'),
        ("single quotes", b"{'name': 'a'}"),
        ("protobuf", b"\n\x01a\x12\x011"),
        ("of a huge number", b'{"name": ' + b"9" * 5000 + b"}"),
        ("without a name", b'{"version": "1"}'),
        ("of the name null", b'{"name": null}'),
        ("of the name 3", b'{"name": 3}'),
        ("of the name true", b'{"name": true}'),
        ("of a list of names", b'{"name": ["a"]}'),
        ("of an object as name", b'{"name": {"a": "a"}}'),
        ("of the name NaN", b'{"name": NaN}'),
        ("of the version 1", b'{"name": "a", "version": 1}'),
        ("of a list of versions", b'{"name": "a", "version": ["1"]}'),
        ("of the extensions 1", b'{"name": "a", "extensions": 1}'),
        ("of the extension 1", b'{"name": "a", "extensions": [1]}'),
        ("of a list in the extensions", b'{"name": "a", "extensions": [["a"]]}'),
    )
}
REFUSED |= {
    f"the length {length!r}": (answer(BODY, b"Content-Length: " + length, length=False), ProtocolError)
    for length in (b"0x2f", b"4 7", b"47,47", b"47.0", b"+47", b"1e1", b"-0", b"\xb2")
}
REFUSED |= {
    f"the chunk size {size!r}": (
        answer(size + b"\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked", length=False),
        ProtocolError,
    )
    for size in (b"-1", b"0x2", b"g", b"f" * 17, b"2 2", b";", b"", b" ", b"2\0")
}
REFUSED |= {"a length in the trailers": (chunked(BODY, 9, b"Content-Length: 3\r\n"), ProtocolError)}
REFUSED |= {
    f"a header {name}": (answer(BODY, header), ProtocolError)
    for name, header in (
        ("of a bare line feed", b"X: a\nY: b\x00"),
        ("without a name", b": a"),
        ("whose name has a space", b"X Y: a"),
        ("whose name has a byte of 255", b"X\xff: a"),
        ("that says chunked, then other", b"Transfer-Encoding: chunked, gzip"),
        ("that says chunks, and a length", b"Transfer-Encoding: chunked"),
        ("of a delete", b"X: \x7f"),
    )
}
REFUSED |= {
    f"gzip {name}": (answer(body, b"Content-Encoding: gzip"), ProtocolError)
    for name, body in (
        ("of a wrong checksum", gzip.compress(BODY)[:-8] + b"\0" * 8),
        ("of a wrong length", gzip.compress(BODY)[:-4] + b"\xff" * 4),
        ("of half a header", gzip.compress(BODY)[:5]),
        ("of a wrong method", b"\x1f\x8b\x07" + gzip.compress(BODY)[3:]),
        ("of a second member that is cut", gzip.compress(BODY) + gzip.compress(b" ")[:-3]),
        ("of a second member that is a bomb", gzip.compress(BODY) + BOMB),
        ("of a bomb in a bomb", gzip.compress(gzip.compress(b" " * LARGEST * 50))),
    )
}
REFUSED |= {
    f"the coding {coding!r}": (packed(BODY, coding), ProtocolError)
    for coding in (b"zstd", b"compress", b"identity, gzip", b"gzip;q=1", b"*", b"\xff")
}
