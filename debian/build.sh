#!/bin/sh
# Builds the Debian package of the checkout that holds this script; `make deb` calls it.
#
#   debian/build.sh PYTHON FOLDER     PYTHON: one that has axomsync's requirements and hatchling; the package goes to FOLDER
#
# The program gets a virtual environment of its own below /usr/lib/axomsync, with the pinned requirements: the distribution's
# may be older. It hangs on the minor version of the system's Python, which the package therefore depends on.
set -eu
umask 022
export LC_ALL=C.UTF-8

build_python=$1
target=$2
checkout=$(cd "$(dirname "$0")/.." && pwd)
system_python=/usr/bin/python3
home=/usr/lib/axomsync

fail() { printf 'debian/build.sh: %s\n' "$*" >&2; exit 1; }
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing; build on Debian or Ubuntu"
python_version=$("$system_python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$system_python is missing"
next_version=$("$system_python" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print("%d.%d" % (3, sys.version_info[1] + 1))') \
    || fail "$system_python is older than 3.11; build on Debian 12, Ubuntu 24.04 or newer"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$checkout" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root$home" "$root/usr/bin" "$work/wheel"

# make_environment: the program with its requirements, free of what the build leaves behind.
make_environment() {
    "$system_python" -m venv --without-pip "$root$home"
    (cd "$checkout" && "$build_python" -m hatchling build -t wheel -d "$work/wheel" >/dev/null 2>&1)
    if command -v uv >/dev/null; then
        add() { uv pip install -q -p "$root$home/bin/python" "$@"; }
    else
        add() { "$build_python" -m pip --python "$root$home/bin/python" install -q --no-compile "$@"; }
    fi
    # What builds packages is pinned there too, and pip, which only a verb of sqlite-utils wants: an agent needs neither.
    awk '/^[a-z]/ { drop = /^(hatchling|packaging|pathspec|pip|tomlkit|trove-classifiers)==/ } !drop' \
        "$checkout/requirements-run.txt" > "$work/requirements.txt"
    add --no-deps --require-hashes -r "$work/requirements.txt"
    add --no-deps "$work"/wheel/*.whl
    packages=$root$home/lib/python$python_version/site-packages
    rm -rf "$root$home/include" "$packages/certifi/tests"
    # modules that nobody can run by themselves need no interpreter
    find "$packages" -name '*.py' ! -perm /111 -exec sed -i '1{/^#!/d}' {} +
    find "$root$home/bin" -mindepth 1 ! -name 'python*' -delete
    find "$root$home" -name __pycache__ -prune -exec rm -r {} +
    # where it was built is nobody's business
    rm -f "$packages"/axomsync-*.dist-info/direct_url.json "$packages"/*.dist-info/RECORD
    printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$python_version" > "$root$home/pyvenv.cfg"
    printf '#!%s/bin/python\nfrom axomsync.cli import main\n\nmain()\n' "$home" > "$root/usr/bin/axomsync"
    chmod 755 "$root/usr/bin/axomsync"
}

run() { "$root$home/bin/python" -I "$@"; }

# place SOURCE TARGET: as a file of the package
place() { install -D -m "${3:-644}" "$checkout/$1" "$root$2"; }

place_service() {
    units=/usr/lib/systemd/system
    mkdir -p "$root$units"
    for unit in "$checkout"/systemd/*.service "$checkout"/systemd/*.timer; do
        sed -e 's,/usr/local/bin/axomsync,/usr/bin/axomsync,' -e '/^Description=/a Documentation=man:axomsync(1)' \
            "$unit" > "$root$units/${unit##*/}"
    done
    place systemd/axomsync.sysusers.conf /usr/lib/sysusers.d/axomsync.conf
    place systemd/axomsync.tmpfiles.conf /usr/lib/tmpfiles.d/axomsync.conf
    place config.example.toml /usr/share/axomsync/config.toml
}

place_documents() {
    manual=$root/usr/share/man
    run "$checkout/debian/manpages.py" "$work/man"
    for page in "$work"/man/*; do
        install -D -m 644 "$page" "$manual/man${page##*.}/${page##*/}"
    done
    gzip -9nr "$manual"
    place_completion bash /usr/share/bash-completion/completions/axomsync
    place_completion zsh /usr/share/zsh/vendor-completions/_axomsync
    place_completion fish /usr/share/fish/vendor_completions.d/axomsync.fish
    documents=/usr/share/doc/axomsync
    place LICENSE $documents/copyright
    # Laid out as in the repository, so that links between them hold.
    (cd "$checkout" && find README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md config.example.toml docs -name '*.md' -o -name '*.toml' -o -name '*.yml' -o -name '*.json') |
        while read -r document; do place "$document" "$documents/$document"; done
    # Hosts and secrets that Ansible was given in this checkout are nobody else's business.
    (cd "$checkout" && find deploy -type f ! -path deploy/ansible/hosts.ini '(' ! -path 'deploy/ansible/*_vars/*' -o -name '*.example' ')' ! -name '*vault*') | while read -r file; do place "$file" "$documents/$file"; done
    place debian/lintian-overrides /usr/share/lintian/overrides/axomsync
    place systemd/examples/50-axomsync-vllm.rules $documents/examples/50-axomsync-vllm.rules
    place systemd/examples/restart-vllm $documents/examples/restart-vllm 755
    place systemd/examples/no-secrets $documents/examples/no-secrets 755
    printf 'axomsync (%s) stable; urgency=medium\n\n  * As tagged in the repository, whose log says what is new.\n\n -- %s  %s\n' \
        "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n > "$root$documents/changelog.gz"
}

place_completion() {
    mkdir -p "$root${2%/*}"
    _AXOMSYNC_COMPLETE=$1_source run -c 'from axomsync.cli import cli; cli(prog_name="axomsync")' > "$root$2"
}

write_control() {
    mkdir "$root/DEBIAN"
    migrations=$(run -c 'from sqlite_utils import Database
from axomsync.ledger.schema import migrations
print(*(migration.name for migration in migrations.pending(Database(memory=True))))')
    for script in preinst postinst prerm postrm; do
        sed -e "s/@VERSION@/$version/" -e "s/@MIGRATIONS@/$migrations/" "$checkout/debian/$script" > "$root/DEBIAN/$script"
        chmod 755 "$root/DEBIAN/$script"
    done
    cat > "$root/DEBIAN/control" <<TEXT
Package: axomsync
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Section: net
Priority: optional
Depends: python3 (>= $python_version~), python3 (<< $next_version~), libc6, ca-certificates, systemd
Recommends: acl
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: sync agent for GPU boxes: datasets up, ready models down
 A dataset file that is put into the drop folder is checked, uploaded once, and
 filed away with a receipt. Every model that the Axom console calls ready
 appears on disk, complete and verified, under one steady path. The agent goes
 on where it was after crashes, power loss, expired links and full disks.
TEXT
}

make_environment
version=$(run -c 'import axomsync; print(axomsync.__version__)')
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-local build} <${DEBEMAIL:-root@localhost}>"
place_service
place_documents
write_control
# reading it has compiled it; the machine that it is installed on does that again, for its own Python
find "$root" -name __pycache__ -prune -exec rm -r {} +
ln -sfn ../../../bin/python3 "$root$home/bin/python3"
mkdir -p "$target"
dpkg-deb --root-owner-group --build "$root" "$target/axomsync_${version}_$architecture.deb" >/dev/null
echo "$target/axomsync_${version}_$architecture.deb"
