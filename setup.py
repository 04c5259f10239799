"""The one extension, and the Unicode tables that it is compiled with; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import sys
import unicodedata
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = Path("mrfast/_native")

# MRFAST_BUILD: release runs anywhere; strict turns warnings into errors; debug and asan check every access.
PROFILES = {
    "release": ["-O3", "-fno-semantic-interposition"],
    # array-bounds: gcc 12 takes Cython's own view of a bytearray for an overrun of PyObject.
    "strict": ["-O3", "-Wall", "-Wextra", "-Werror", "-Wno-array-bounds"],
    "debug": ["-O0", "-g"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
}


def bitmap_rows(rows: list[bytes]) -> str:
    return ",\n".join("    {" + ", ".join(f"0x{b:02x}" for b in row) + "}" for row in rows)


def unicode_tables() -> str:
    """The letter bitmap (general category L) and the lower-case map of this interpreter's `unicodedata`, as C."""
    rows: list[bytes] = []
    seen: dict[bytes, int] = {}
    index = []
    for page in range(0x110000 >> 8):
        row = bytearray(32)
        for low in range(256):
            if unicodedata.category(chr(page << 8 | low)).startswith("L"):
                row[low >> 3] |= 1 << (low & 7)
        key = bytes(row)
        if key not in seen:
            seen[key] = len(rows)
            rows.append(key)
        index.append(seen[key])
    lower = []
    for cp in range(0x80, 0x110000):
        if 0xD800 <= cp < 0xE000 or chr(cp).lower() == chr(cp):
            continue
        utf8 = chr(cp).lower().encode()
        assert len(utf8) <= 8 and len(utf8) <= 3 * len(chr(cp).encode())
        lower.append(f"    {{0x{cp:x}, {len(utf8)}, {{{', '.join(str(b) for b in utf8)}}}}}")
    assert len(rows) < 256
    index_lines = ",\n".join("    " + ", ".join(map(str, index[i : i + 32])) for i in range(0, len(index), 32))
    lower_lines = ",\n".join(lower)
    return f"""/* Made by setup.py from Python {sys.version.split()[0]}'s unicodedata {unicodedata.unidata_version}. */
#ifndef MRFAST_UNICODE_TABLES_H
#define MRFAST_UNICODE_TABLES_H

#include <stdint.h>

#define MR_UNICODE_VERSION "{unicodedata.unidata_version}"
#define MR_LOWER_COUNT {len(lower)}

/* Page of 256 code points -> its row of letter bits. */
static const uint8_t mr_letter_index[{len(index)}] = {{
{index_lines}}};

static const uint8_t mr_letter_pages[{len(rows)}][32] = {{
{bitmap_rows(rows)}}};

/* Code points whose own lower case differs, in order. */
static const struct {{
    uint32_t cp;
    uint8_t len;
    uint8_t utf8[8];
}} mr_lower_table[MR_LOWER_COUNT] = {{
{lower_lines}}};

#endif
"""


def write_unicode_tables() -> None:
    target = NATIVE / "unicode_tables.h"
    text = unicode_tables()
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def extensions() -> list[Extension]:
    profile = os.environ.get("MRFAST_BUILD", "release")
    if profile not in PROFILES:
        raise SystemExit(f"MRFAST_BUILD={profile}: choose one of {', '.join(PROFILES)}")
    flags = PROFILES[profile]
    link = [flag for flag in flags if flag.startswith("-fsanitize")]
    core = Extension(
        "mrfast._core",
        ["mrfast/_core.pyx"],
        depends=[*sorted(glob("mrfast/_native/*.h")), "mrfast/_core.pxd", *sorted(glob("mrfast/*.pxi"))],
        include_dirs=["mrfast"],
        extra_compile_args=["-std=gnu11", "-fvisibility=hidden", *flags],
        extra_link_args=link,
        libraries=["m"],
    )
    directives = {
        "language_level": 3,
        "initializedcheck": False,
        "overflowcheck": profile in ("debug", "asan"),
        "cdivision": True,
        "embedsignature": True,
    }
    # A folder a profile: Cython would keep the C of another profile's directives.
    return cythonize([core], build_dir=f"build/cython-{profile}", compiler_directives=directives)


write_unicode_tables()
setup(ext_modules=extensions())
