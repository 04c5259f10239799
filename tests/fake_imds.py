"""A stand-in for EC2's instance metadata service, version 2: no token, no answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def metadata_service(values: dict[str, str]) -> Iterator[str]:
    """The URL of a service that has these values, by path; `values` may change while it serves."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer("a-token" if self.path == "/latest/api/token" else None)

        def do_GET(self) -> None:
            proven = self.headers.get("X-aws-ec2-metadata-token") == "a-token"
            self._answer(values.get(self.path.removeprefix("/latest/meta-data/")) if proven else None)

        def _answer(self, text: str | None) -> None:
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
