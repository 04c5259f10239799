"""The report of a job: the live page and the job's events in one HTML file that needs nothing else.

The files of the page are the same that the live page's server sends. In a report they stand inline, and a content
security policy allows exactly these, by their hashes, and no connection at all. The events are gzip in base64, which a
browser unpacks by itself: a quarter of the lines of 10,000 tasks, and nothing that an application wrote can end the
element that holds them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files

_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"
_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z]+\.js)"></script>')


def report_html(lines: Iterable[bytes]) -> str:
    """The page as one file, with these lines of an event log in it."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}

    def inline(tag: str, name: str) -> str:
        text = _page_file(name)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{text}</{tag}>"

    html = _STYLE.sub(lambda found: inline("style", found[1]), _page_file("index.html"))
    events = base64.b64encode(gzip.compress(b"".join(lines), 6, mtime=0)).decode()
    html = html.replace(
        '<script src="model.js">',
        f'<script type="application/json" id="events">"{events}"</script>\n<script src="model.js">',
        1,
    )
    html = _SCRIPT.sub(lambda found: inline("script", found[1]), html)
    html = html.replace('content="mrfast"', 'content="mrfast report"', 1)
    policy = f"{_CLOSED}; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)


def _page_file(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")
