#!/bin/sh
# Installs the Debian packages whose programs the tests call, or the `program:package` pairs that it is given, where they
# are missing. Costs nothing when none is.
set -eu

if [ $# = 0 ]; then
    set -- systemd-nspawn:systemd-container systemd-analyze:systemd nsenter:util-linux setpriv:util-linux strace:strace \
        openssl:openssl ip:iproute2 faketime:faketime nginx:nginx-light chromium:chromium groff:groff-base sqlite3:sqlite3 \
        mkfs.ext4:e2fsprogs "cc:gcc libc6-dev" fusermount3:fuse3 pkaction:polkitd dbus-daemon:dbus
    # Of the package prometheus only one program is wanted, and no server that starts by itself. Debian 13 has it apart.
    if ! command -v promtool >/dev/null && [ ! -x .venv/bin/promtool ]; then
        if ! command -v apt-get >/dev/null; then
            echo "the tests need promtool, which comes with Prometheus; put it on PATH" >&2
            exit 1
        fi
        echo "fetching promtool for the tests"
        [ "$(id -u)" != 0 ] || apt-get update -qq
        folder=$(mktemp -d)
        package=$(apt-cache pkgnames | grep -x promtool || echo prometheus)
        (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root "$package")
        dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -xO ./usr/bin/promtool > "$folder/promtool"
        install -m 755 "$folder/promtool" .venv/bin/promtool
        rm -r "$folder"
    fi
fi

missing=
for need in "$@"; do
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
