"""Exits 1 if a document links to, or names, a file of this project that does not exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "DESIGN.md", "CHANGELOG.md")
REQUIRED = ("README.md", "DESIGN.md", "CHANGELOG.md", "LICENSE")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.:-])((?:scripts|apps|benches|tests|\.ci)/[\w./-]*[\w])")


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text's headings, as GitHub makes them."""
    headings = re.findall(r"^#+\s+(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def problems(document: Path) -> list[str]:
    """What is wrong with one document, a line each."""
    text = document.read_text()
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for link in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            if not target.exists():
                found.append(f"{document.name}:{number}: the link to {link} leads nowhere")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
                found.append(f"{document.name}:{number}: {path or document.name} has no heading #{anchor}")
        for path in NAMED.findall(line):
            if not (ROOT / path).exists():
                found.append(f"{document.name}:{number}: {path} does not exist")
    return found


def main() -> int:
    """Prints every problem; the number of them decides the exit status."""
    found = [f"{name} is missing" for name in REQUIRED if not (ROOT / name).exists()]
    for document in [*(ROOT / name for name in DOCUMENTS), *sorted((ROOT / "docs").rglob("*.md"))]:
        if document.exists():
            found += problems(document)
    print("\n".join(found) or "Every link and path exists.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
