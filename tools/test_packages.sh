#!/bin/sh
# What some tests need: Azurite (tools/azurite.sh), and Debian packages, installed where that may be done (root, apt).
# Elsewhere, and where it fails, the tests that need them are skipped and say so.
set -eu

sh "$(dirname "$0")/azurite.sh"

missing=""
command -v mpirun >/dev/null 2>&1 || missing="$missing openmpi-bin"
command -v mpicc >/dev/null 2>&1 || missing="$missing libopenmpi-dev"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v ffmpeg >/dev/null 2>&1 || missing="$missing ffmpeg"
command -v rclone >/dev/null 2>&1 || missing="$missing rclone"
command -v fusermount3 >/dev/null 2>&1 || missing="$missing fuse3"
command -v smbd >/dev/null 2>&1 || missing="$missing samba"
case "${CI:-}" in
1 | true | yes) # the Java client, one of the heavy ones of tests/clients
    command -v javac >/dev/null 2>&1 || missing="$missing default-jdk-headless"
    command -v mvn >/dev/null 2>&1 || missing="$missing maven"
    ;;
esac
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then exit 0; fi

# Two makes at once: the second waits, and finds the work done.
if command -v flock >/dev/null 2>&1; then
    exec 9>"${TMPDIR:-/tmp}/millpond-test-packages.lock"
    flock 9
fi
printf 'tests: installing%s\n' "$missing" >&2
# shellcheck disable=SC2086
{
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
} >&2 || printf 'tests: %s could not be installed; what needs them is skipped\n' "$missing" >&2
