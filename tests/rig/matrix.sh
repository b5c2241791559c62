#!/bin/sh
# `make demo` and `make test` where other people run them. `make matrix` calls it; it takes long, and is no part of `make test`.
#
#   tests/rig/matrix.sh [bookworm] [trixie] [lowest]     all three when none is named; $TEST_ARGS is handed on to `make test`
#
# The release that runs here is tried here, the other one in a tree of its own that debootstrap makes. `lowest` has the lowest
# versions that pyproject.toml allows. Each works on a copy of this checkout; $MATRIX (/var/tmp/axomsync-matrix) keeps copies
# and trees for the next time. $SHARE names folders of this machine that a tree may read, such as a mirror of packages.
set -eu

cd "$(dirname "$0")/../.."
checkout=$PWD
folder=${MATRIX:-/var/tmp/axomsync-matrix}
[ $# != 0 ] || set -- bookworm trixie lowest

fail() { printf 'tests/rig/matrix.sh: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "trees and their tests take root; run: sudo make matrix"
here=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

# copy_to FOLDER: as a commit of now would have it
copy_to() {
    mkdir -p "$1"
    find "$1" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +  # what an earlier run had and this one has not
    git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- | tar -x -C "$1"
}

verbs() { make demo && make test ARGS="${TEST_ARGS:-}"; }

on_this_release() {
    copy_to "$folder/here"
    (cd "$folder/here" && verbs)
}

with_lowest_versions() {
    copy_to "$folder/lowest"
    cd "$folder/lowest"
    rm -rf .venv
    /usr/bin/python3 -m venv .venv
    .venv/bin/python "$checkout/tests/rig/lowest_versions.py" pyproject.toml > lowest.txt
    .venv/bin/pip install -q -r lowest.txt
    .venv/bin/pip install -q --no-deps --require-hashes -r requirements-sample.txt
    .venv/bin/pip install -q --no-deps --no-build-isolation -e .
    touch .venv/ready
    verbs
}

# in_tree RELEASE: a root with mounts of its own, which go with it; how packages are fetched is as here
in_tree() {
    tree=$folder/$1
    if [ ! -e "$tree/etc/debian_version" ]; then
        tests/rig/debian-packages.sh debootstrap:debootstrap
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
        debootstrap --variant=minbase --include=ca-certificates,git,make,python3,python3-venv "$1" "$tree" "$mirror"
    fi
    copy_to "$tree/checkout"
    # Names, proxies and certificates, and the folders and files that pip is told of here.
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf "${HOME:-/root}/.config/pip/pip.conf" /etc/apt/apt.conf.d/*; do
        [ ! -f "$file" ] || install -D -m 644 "$file" "$tree$file"
    done
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
    shared=${SHARE:-}
    for path in $(python3 -m pip config list 2>/dev/null | grep -o "/[^'\", ]*" | sort -u); do
        if [ -f "$path" ]; then install -D -m 644 "$path" "$tree$path"; fi
        if [ -d "$path" ]; then shared="$shared $path"; fi
    done
    unshare --mount --pid --fork --kill-child sh -euc '
        tree=$1
        mount --bind "$tree" "$tree"
        for point in dev sys; do mount --rbind /$point "$tree/$point"; done
        for path in $3; do mkdir -p "$tree$path"; mount --bind -o ro "$path" "$tree$path"; done
        mount -t proc proc "$tree/proc"
        mount -t tmpfs -o mode=1777 tmp "$tree/tmp"
        mount -t tmpfs run "$tree/run"
        # The root of the namespace, not a chroot in it: the tests boot containers, and nsenter looks for theirs there.
        mkdir -p "$tree/.old"
        cd "$tree"
        pivot_root . .old
        exec chroot . env TEST_ARGS="$2" sh -euc "umount -l /.old && cd /checkout && make demo && make test ARGS=\"\$TEST_ARGS\""
    ' tree "$tree" "${TEST_ARGS:-}" "$shared"
}

passed='' failed=''
for leg in "$@"; do
    case $leg in
        lowest) run=with_lowest_versions ;;
        "$here") run=on_this_release ;;
        bookworm | trixie) run="in_tree $leg" ;;
        *) fail "$leg: not one of bookworm, trixie, lowest" ;;
    esac
    printf '== %s\n' "$leg"
    # In a process of its own, not in a condition: `set -e` does not hold in one.
    set +e
    (set -e; $run)
    code=$?
    set -e
    if [ $code = 0 ]; then passed="$passed $leg"; else failed="$failed $leg"; fi
done
printf 'passed:%s\nfailed:%s\n' "${passed:- none}" "${failed:- none}"
[ -z "$failed" ]
