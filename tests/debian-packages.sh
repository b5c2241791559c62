#!/bin/sh
# Installs the Debian packages whose programs the tests call, where they are missing. Costs nothing when none is.
set -eu

missing=
# program:package
for need in systemd-nspawn:systemd-container systemd-analyze:systemd nsenter:util-linux setpriv:util-linux strace:strace openssl:openssl; do
    command -v "${need%:*}" >/dev/null || missing="$missing ${need#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "the tests need these Debian packages; run: sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing for the tests:$missing"
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
