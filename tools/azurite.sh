#!/bin/sh
# Azurite, the blob server of the tests, put into .cache/azurite of this checkout once (npm; nothing is installed outside
# of it). Without npm, or where it fails, the tests that need it are skipped and say so.
set -eu

version=3.35.0
root=$(cd "$(dirname "$0")/.." && pwd)
directory=$root/.cache/azurite
stamp=$directory/.version
is_ready() {
    [ "$(cat "$stamp" 2>/dev/null || true)" = "$version" ]
}
if is_ready; then exit 0; fi
# Two makes at once: the second waits, and finds the work done.
mkdir -p "$root/.cache"
if command -v flock >/dev/null 2>&1; then
    exec 9>"$directory.lock"
    flock 9
    if is_ready; then exit 0; fi
fi
if ! command -v npm >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    printf 'tests: installing npm\n' >&2
    {
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm
    } >&2 || true
fi
if ! command -v npm >/dev/null 2>&1; then
    printf 'tests: no npm here; what needs Azurite is skipped\n' >&2
    exit 0
fi
printf 'tests: installing Azurite %s into .cache\n' "$version" >&2
rm -rf "$directory"
mkdir -p "$directory"
printf '{"name": "millpond-test-servers", "private": true}\n' >"$directory/package.json"
if npm install --prefix "$directory" --no-audit --no-fund --ignore-scripts --loglevel=error "azurite@$version" >&2; then
    printf '%s\n' "$version" >"$stamp"
else
    printf 'tests: Azurite could not be installed; what needs it is skipped\n' >&2
fi
