"""Programs of other people that deploy/ is for, in an environment of their own: see the Makefile."""

import json
import subprocess
from typing import Any

from tests.rig.installation import CHECKOUT

DEPLOY = CHECKOUT / "deploy"
BIN = CHECKOUT / ".venv/deploy/bin"


def yaml_documents(text: str) -> list[Any]:
    """The documents in a text of YAML."""
    program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
    done = subprocess.run([BIN / "python", "-c", program], input=text, capture_output=True, text=True, check=True)
    documents: list[Any] = json.loads(done.stdout)
    return documents
