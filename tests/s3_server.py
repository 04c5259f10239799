"""A stand-in S3 as a process of its own: moto over HTTP, on a free loopback port that it prints first.

Conditional writes are atomic in S3, but not in moto, which looks first and writes then, in one of many threads: the
lock here makes each write one step. `GET /_requests/<bucket>` says which requests that bucket has had, by verb.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.utilities import RegexConverter
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def one_write_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI app with its writes in single file."""
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start)
        with lock:
            return app(environ, start)

    return answer


def with_access_log(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI app with what each bucket was asked for, as S3's own access log would tell it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        bucket = environ["PATH_INFO"].split("/")[1]
        if bucket == "_requests":
            with lock:
                body = json.dumps(counts[environ["PATH_INFO"].split("/")[2]]).encode()
            start("200 OK", [("Content-Type", "application/json")])
            return [body]
        with lock:
            counts[bucket][verb_of(environ)] += 1
        return app(environ, start)

    return answer


def verb_of(environ: dict[str, Any]) -> str:
    """The request's verb as it is priced: a copy is no PUT, a listing no GET."""
    method = str(environ["REQUEST_METHOD"])
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "COPY"
    key = environ["PATH_INFO"].strip("/").partition("/")[2]
    return "LIST" if method == "GET" and not key else method


def allow_line_feeds_in_keys() -> None:
    """S3 has them; moto's routes match keys with `.`, which stops at a line feed."""
    init = RegexConverter.__init__

    def with_dotall(self: RegexConverter, url_map: Any, *items: Any) -> None:
        init(self, url_map, *items)
        self.regex = f"(?s:{self.regex})"

    RegexConverter.__init__ = with_dotall  # type: ignore[method-assign]


def end_with_parent() -> None:
    """Ends this process when its standard input does: the tests' process is gone, however it ended."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serves until standard input is closed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    allow_line_feeds_in_keys()
    app = with_access_log(one_write_at_a_time(DomainDispatcherApplication(create_backend_app)))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
