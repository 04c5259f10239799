# Sourced by the other scripts: makes .venv with mrfast in it, and builds again only when sources changed.
# PYTHON names the interpreter (python3); a made .venv keeps its own.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"

need_system_packages() {
    local python=${PYTHON:-python3} missing=()
    if ! command -v "$python" >/dev/null; then
        missing+=(python3 python3-venv python3-dev)
    else
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "$python is $("$python" -V 2>&1); mrfast needs Python 3.11 or later: set PYTHON" >&2
            exit 2
        }
        "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
        "$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_paths()["include"] + "/Python.h"))' ||
            missing+=(python3-dev)
    fi
    command -v "${CC:-cc}" >/dev/null || missing+=(gcc)
    [ -e /usr/include/stdlib.h ] || [ "$(uname)" != Linux ] || missing+=(libc6-dev)
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "Not installed: ${missing[*]}. This installs them:" >&2
        echo "    sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
        exit 2
    fi
}

# What the build depends on, and which extras are wanted, as one digest.
sources_digest() {
    (
        cd "$ROOT"
        echo "$1" "${MRFAST_BUILD:-release}"
        find setup.py pyproject.toml mrfast -maxdepth 2 \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' \
            -o -name setup.py -o -name pyproject.toml \) ! -name unicode_tables.h -print0 | LC_ALL=C sort -z | xargs -0 cat
    ) | cksum
}

# ensure_venv EXTRAS: .venv with mrfast[EXTRAS], editable.
ensure_venv() {
    local extras=$1 stamp digest
    need_system_packages
    [ -x "$VENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$VENV"
    stamp="$VENV/.built-$extras"
    digest=$(sources_digest "$extras")
    if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$digest" ] || ! "$VENV/bin/python" -c 'import mrfast._core' 2>/dev/null; then
        echo "Building mrfast[$extras] in $VENV ..." >&2
        "$VENV/bin/python" -m pip install -q --disable-pip-version-check -e "$ROOT[$extras]"
        # An editable install has no bytecode: without it each command compiles 60 modules where none may be written.
        "$VENV/bin/python" -m compileall -q "$ROOT/mrfast"
        echo "$digest" >"$stamp"
    fi
}
