"""A server of weights on this machine, which can fail in every way that servers do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    """What the server sends for a path.

    Args:
        body: the content.
        code: the HTTP status.
        headers: further headers; Content-Length is the length of the body unless it is given here.
        pause: seconds between the first half of the body and the second.
    """

    body: bytes = b""
    code: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    pause: float = 0.0


class WeightsServer:
    """Answers GET requests; `asked` lists their paths in order, `url` is the address without a path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                answer = outer.answers.get(self.path, Answer(b"gone", 404))
                self.send_response(answer.code)
                for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                half = len(answer.body) // 2
                with contextlib.suppress(OSError):  # the client may be gone
                    self.wfile.write(answer.body[:half])
                    self.wfile.flush()
                    time.sleep(answer.pause)
                    self.wfile.write(answer.body[half:])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def weights_server() -> Iterator[WeightsServer]:
    server = WeightsServer()
    try:
        yield server
    finally:
        server.close()
