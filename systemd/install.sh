#!/bin/sh
# Installs axomsync as a systemd service, from the checkout that holds this script. Says each thing that it does, and may
# be run again at any time: to upgrade, or to mend what was deleted.
set -eu

usage() {
    cat <<'TEXT'
usage: systemd/install.sh [--wheel FILE | --program FILE]   install or upgrade
       systemd/install.sh --uninstall                       remove the service; keep configuration, ledger, drop and models
  --wheel FILE     install this wheel instead of the checkout
  --program FILE   use an axomsync that is installed already; make no virtual environment
  PYTHON=FILE      in the environment: the CPython >= 3.11 to use
TEXT
}

home=/opt/axomsync
link=/usr/local/bin/axomsync
units=/usr/local/lib/systemd/system
sysusers=/usr/local/lib/sysusers.d/axomsync.conf
tmpfiles=/usr/local/lib/tmpfiles.d/axomsync.conf
manual=/usr/local/share/doc/axomsync/README.md
settings=/etc/axomsync

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

# Services can't look into home folders, so a Python below one is of no use.
usable() { "$1" -c 'import os, sys; sys.exit(sys.version_info < (3, 11) or os.path.realpath(sys.executable).startswith(("/root/", "/home/")))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-/usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.[1-9][1-9] /usr/local/bin/python3.[1-9][1-9]}; do
        usable "$python" && return
    done
    fail "no CPython >= 3.11 outside of home folders was found; install python3 (Debian 12, Ubuntu 24.04 or newer), or name one: PYTHON=/path/to/python3 $0"
}

make_environment() {
    find_python
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        command -v apt-get >/dev/null || fail "$python lacks the module venv or ensurepip; install it and run this again"
        say "installing the Debian package $package, which $python needs to make virtual environments"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
    fi
    # An environment breaks when its Python is upgraded or removed; then it is made anew.
    if [ "$("$home/bin/python" -c 'import sys; print(sys.version_info)' 2>/dev/null)" = "$("$python" -c 'import sys; print(sys.version_info)')" ]; then
        say "$home: the virtual environment is there"
    else
        "$python" -m venv --clear "$home"
        say "$home: virtual environment made with $python"
    fi
    "$home/bin/python" -m pip install -q --no-deps --require-hashes -r "$checkout/requirements-run.txt"
    # The same version may be other code, so what is there is never taken for good.
    "$home/bin/python" -m pip install -q --no-deps --no-build-isolation --force-reinstall "${wheel:-$checkout}"
    program=$home/bin/axomsync
    say "$home: $("$program" --version) is installed"
}

link_program() {
    [ -x "$program" ] || fail "$program is not a program"
    [ ! -e "$link" ] || [ -L "$link" ] || fail "$link is there and is not ours; move it away"
    [ "$(readlink "$link" || :)" = "$program" ] && return
    ln -sfn "$program" "$link"
    say "$link -> $program"
}

# place SOURCE TARGET: copies when different, and remembers that something was.
place() {
    cmp -s "$1" "$2" && return
    install -D -m 0644 "$1" "$2"
    say "$2: written"
    changed=yes
}

install_service() {
    place "$checkout/systemd/axomsync.sysusers.conf" "$sysusers"
    systemd-sysusers "$sysusers"
    place "$checkout/systemd/axomsync.tmpfiles.conf" "$tmpfiles"
    systemd-tmpfiles --create "$tmpfiles"
    place "$checkout/README.md" "$manual"
    changed=no
    for unit in axomsync.service axomsync-sync.service axomsync-sync.timer; do
        place "$checkout/systemd/$unit" "$units/$unit"
    done
    [ $changed = no ] || systemctl daemon-reload
}

write_settings() {
    mkdir -p "$settings"
    if [ -e "$settings/config.toml" ]; then
        say "$settings/config.toml: kept"
    else
        install -m 0644 "$checkout/config.example.toml" "$settings/config.toml"
        say "$settings/config.toml: written; every key has its default"
    fi
}

tell_what_remains() {
    say ""
    if systemctl -q is-active axomsync; then
        say "The running agent is still the old one; it keeps the bytes that it has: systemctl restart axomsync"
        return
    fi
    say "What remains:"
    [ -s "$settings/key" ] || say "  install -m 0600 /dev/stdin $settings/key     # paste the API key, Enter, Ctrl-D"
    say "  axomsync config check --config $settings/config.toml"
    say "  systemctl enable --now axomsync               # or axomsync-sync.timer: a pass every five minutes, and no daemon"
    say "  usermod -aG axomsync NAME                     # for each person who may drop datasets into /srv/axom/drop"
}

uninstall() {
    for unit in axomsync.service axomsync-sync.timer; do
        if systemctl -q is-active $unit || systemctl -q is-enabled $unit 2>/dev/null; then
            systemctl disable -q --now $unit
            say "$unit: stopped and disabled"
        fi
    done
    for file in "$units/axomsync.service" "$units/axomsync-sync.service" "$units/axomsync-sync.timer" "$sysusers" "$tmpfiles" "$manual" "$link"; do
        if [ -e "$file" ] || [ -L "$file" ]; then
            rm "$file"
            say "$file: removed"
        fi
    done
    rmdir "${manual%/*}" 2>/dev/null || :
    if [ -e "$home/pyvenv.cfg" ]; then
        rm -r "$home"
        say "$home: removed"
    fi
    systemctl daemon-reload
    say "kept: $settings, /var/lib/axomsync, /srv/axom and the user axomsync"
}

wheel=
program=
action=install
while [ $# -gt 0 ]; do
    case $1 in
        --wheel) wheel=${2:?--wheel needs a file}; shift ;;
        --program) program=${2:?--program needs a file}; shift ;;
        --uninstall) action=uninstall ;;
        -h | --help) usage; exit ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

[ "$(id -u)" = 0 ] || fail "only root can install a service; run: sudo $0"
command -v systemctl >/dev/null || fail "this machine has no systemd"
checkout=$(cd "$(dirname "$0")/.." && pwd)
umask 022

if [ $action = uninstall ]; then
    uninstall
    exit
fi
[ -n "$program" ] || make_environment
link_program
install_service
write_settings
tell_what_remains
