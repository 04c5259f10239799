"""A stand-in for the server of the live page: it sends the page and what a test tells it, as server-sent events."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "mrfast/watch/page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {path.name: TYPES[path.suffix] for path in PAGE.iterdir()}
POLICY = (  # no weaker than that of the live page's server
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LivePage:
    """Serves at `url` until it is closed; `tell` sends lines on, `drop` cuts every connection and refuses new ones."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.resumed_at: list[str | None] = []  # Last-Event-ID of each connection
        self._news = threading.Condition()
        self._open = True
        self._closed = False
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.lstrip("/") or "index.html"
                if name == "events":
                    return owner._push(self)
                if name not in FILES:
                    return self.send_error(404)
                body = (PAGE / name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Type", FILES[name])
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", POLICY)
                self.end_headers()
                self.wfile.write(body)
                return None

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def tell(self, lines: Sequence[bytes]) -> None:
        """The lines go to every page, in one message."""
        with self._news:
            self.lines += lines
            self._news.notify_all()

    def drop(self) -> None:
        """Every connection ends, and the next ones at once, until `mend`."""
        with self._news:
            self._open = False
            self._news.notify_all()

    def mend(self) -> None:
        """Connections last again."""
        with self._news:
            self._open = True

    def close(self) -> None:
        """Nothing is served any more."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _push(self, request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with self._news:
            refused = not self._open
            if not refused:
                self.resumed_at.append(request.headers["Last-Event-ID"])
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        if refused:
            return
        request.wfile.write(b"retry: 100\n\n")
        at = int(request.headers["Last-Event-ID"] or 0)
        while True:
            with self._news:
                self._news.wait_for(lambda: at < len(self.lines) or not self._open or self._closed)
                if not self._open or self._closed:
                    return
                lines, at = self.lines[at:], len(self.lines)
            data = b"".join(b"data: " + line.rstrip(b"\n") + b"\n" for line in lines)
            try:
                request.wfile.write(b"id: %d\n%s\n" % (at, data))
                request.wfile.flush()
            except OSError:
                return
