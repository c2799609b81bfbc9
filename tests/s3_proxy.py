"""Between DMR and an imitation of S3: counts requests, answers late, wrongly or not at all, tells of every write."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Slow down</Message></Error>'
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class Proxy:
    """Passes requests on to `server`.

    Attributes:
        requests: method and path of every request.
        delay: seconds that every request takes longer.
        answer: a status that every request is answered with instead; None to pass them on.
        silent: whether requests are left without any answer.
        on_write: called before the n-th write (from 1) is passed on, and after it, with n and whether it was.
    """

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server)
        self.requests: list[tuple[str, str]] = []
        self.delay = 0.0
        self.answer: int | None = None
        self.silent = False
        self.on_write: Callable[[int, bool], None] = lambda number, done: None
        self.writes = 0
        self.refusal: tuple[int, bytes] | None = None  # of writes
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # http.server's names

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.silent = False
        self.http.shutdown()
        self.http.server_close()

    def count(self, method: str, part: str = "") -> int:
        return sum(one == method and part in path for one, path in self.requests)

    def refuse_writes(self, status: int, code: str) -> None:
        self.refusal = status, SLOW_DOWN.replace(b"SlowDown", code.encode())

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        with self._lock:
            self.requests.append((request.command, request.path))
            writes = request.command == "PUT"
            self.writes += writes
            number = self.writes
        time.sleep(self.delay)
        while self.silent:
            time.sleep(0.05)
        if self.answer is not None:
            self._reply(request, self.answer, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if writes and self.refusal is not None:
            self._reply(request, self.refusal[0], [("Content-Type", "application/xml")], self.refusal[1])
            return
        if writes:
            self.on_write(number, False)
        connection = http.client.HTTPConnection(self.server.hostname or "", self.server.port, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        try:
            connection.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if writes:
            self.on_write(number, True)
        self._reply(request, answer.status, answer.getheaders(), content)

    @staticmethod
    def _reply(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                request.send_header(name, value)
        head = request.command == "HEAD" and length is not None
        request.send_header("Content-Length", str(length if head else len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    found = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        found += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return found
