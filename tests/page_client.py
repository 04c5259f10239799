"""Those who look at a live page, and a feed that is made up."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 30


class Answer:
    """What came back to one request."""

    def __init__(self, response: http.client.HTTPResponse, body: bytes):
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    """One request to the page at `url`; HOST="..." names another host."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response, response.read())


class Viewer:
    """A reader of /events, as a browser is one."""

    def __init__(self, url: str, last: str = "", **headers: str):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
        if last:
            headers["Last-Event-ID"] = last
        self.connection.request("GET", "/events", headers={name.replace("_", "-"): v for name, v in headers.items()})
        self.response = self.connection.getresponse()
        self.last = last
        self._lines = self._read_lines()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events, by the rules of server-sent events: fields by line, an empty line ends one."""
        data: list[str] = []
        for line in self._lines:
            for part in line.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
                name, _, value = part.partition(":")
                value = value.removeprefix(" ")
                if not part:
                    if data:
                        yield json.loads("\n".join(data))
                    data = []
                elif name == "id":
                    self.last = value
                elif name == "data":
                    data.append(value)

    def _read_lines(self) -> Iterator[bytes]:
        if self.response.headers.get("Content-Encoding") != "gzip":
            yield from iter(self.response.readline, b"")
            return
        unpacker, rest = zlib.decompressobj(wbits=31), b""
        while data := self.response.read1(65_536):
            *lines, rest = (rest + unpacker.decompress(data)).split(b"\n")
            yield from (line + b"\n" for line in lines)

    def take(self, count: int) -> list[dict[str, Any]]:
        events = iter(self)
        return [next(events) for _ in range(count)]

    def until_end(self) -> list[dict[str, Any]]:
        found = []
        for event in self:
            found.append(event)
            if event["e"] == "end":
                break
        return found

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def page_pid(url: str) -> int:
    """The process that serves the page at `url`; 0 if there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            is_page = b"mrfast.watch" in words and url.encode() in words
            if is_page and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return int(folder.name)
    return 0


def wait_for_end(pid: int) -> None:
    """Returns when the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], TIMEOUT_S)[0], f"process {pid} goes on"
        finally:
            os.close(descriptor)
