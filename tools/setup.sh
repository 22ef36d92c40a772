#!/bin/sh
# Make or refresh the virtual environment given as the argument. Quick when nothing changed: a stamp in it holds a digest
# of pyproject.toml, of this script and of the interpreter. PYTHON names the interpreter.
set -eu

venv=${1:?usage: setup.sh VENV}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

can_install_packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1
}

install_packages() {
    printf 'setup: installing %s\n' "$*" >&2
    apt-get update -qq >&2 || fail "apt-get update failed; install $* by hand and run make again"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        fail "apt-get could not install $*; install it by hand and run make again"
}

has_venv() {
    # ensurepip is the part Debian leaves out of python3
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "no $python here: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version, Millpond needs 3.11 or later: make PYTHON=/path/to/python3"

stamp=$venv/.millpond-ready
digest() {
    { "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; printf '%s\n' "$root"; cat pyproject.toml tools/setup.sh; } |
        "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}
wanted=$(digest)
is_ready() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]
}
if is_ready; then exit 0; fi

# Two makes at once: the second waits, then finds the work done.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$venv.lock"
    flock 9
    if is_ready; then exit 0; fi
fi

if ! has_venv; then
    if can_install_packages; then
        install_packages "python$version-venv"
    else
        fail "$python has no venv module: install it (Debian, Ubuntu: sudo apt install python$version-venv) and run make again"
    fi
    has_venv || fail "$python still has no venv module after installing python$version-venv"
fi

printf 'setup: making the environment in %s (Python %s)\n' "$venv" "$version" >&2
"$python" -m venv --clear "$venv" || fail "could not make a virtual environment in $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]' >&2 ||
    fail "pip could not install what pyproject.toml asks for (is there a way to a package index?)"
printf '%s\n' "$wanted" >"$stamp"
