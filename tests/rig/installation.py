"""The program under test, laid out for a container as an installation would be.

The environment that runs the tests may lie anywhere, below a home folder with mode 0700 for one, and service users can't
look there. So the container sees it at a path of its own, under a layer that names that path and holds the package itself.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.rig.container import Container, ContainerError

CHECKOUT = Path(__file__).parents[2]
SOURCES = "/opt/checkout"
PREFIX = "/opt/environment"
PROGRAM = f"{PREFIX}/bin/axomsync"
PYTHON = "/opt/python"

_LAUNCHER = f"""#!{PREFIX}/bin/python
import sys
import sysconfig
from axomsync.cli import main
sys.exit(main())
"""


@contextmanager
def machine_with_program(folder: Path, more: Mapping[Path, str] | None = None) -> Iterator[Container]:
    """A booted container that has this checkout at `SOURCES` and its program at `PROGRAM`. `folder` takes a few MB, `more`
    maps further folders to paths inside, read-only."""
    if sys.prefix == sys.base_prefix:
        raise ContainerError("the tests must run in a virtual environment; run: make test")
    base = Path(sys.base_prefix)
    python = Path(sys.executable).resolve()
    binds = {CHECKOUT: SOURCES, **(more or {})}
    if base != Path("/usr"):
        binds[base] = PYTHON
        python = PYTHON / python.relative_to(base)
    layers = (Path(sys.prefix), _top_layer(folder, python))
    with Container(binds=binds, overlays={layers: PREFIX}) as machine:
        if PYTHON in binds.values():
            # where its libpython is, for a Python that knows only the path that it was built for
            machine.write("/etc/ld.so.conf.d/python.conf", f"{PYTHON}/lib\n")
            machine.run("ldconfig")
        yield machine


def _top_layer(folder: Path, python: Path) -> Path:
    programs = folder / "bin"
    packages = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    programs.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    (programs / "python").symlink_to(python)
    (programs / "axomsync").write_text(_LAUNCHER)
    shutil.copytree(CHECKOUT / "axomsync", packages / "axomsync", ignore=shutil.ignore_patterns("__pycache__"))
    # whatever the umask of the checkout was
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    (programs / "axomsync").chmod(0o755)
    return folder
