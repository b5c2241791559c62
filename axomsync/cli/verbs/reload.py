"""`reload`: the running agent reads its configuration again, and says whether it uses it.

Failures handled: a bad configuration (every error is printed, the agent goes on with the old one), no running agent, an
agent that does not answer.
"""

import os
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import print_answer, steer
from axomsync.core.errors import AxomsyncError, Rejected

if TYPE_CHECKING:
    from axomsync.config import Loaded

PATIENCE_SECONDS = 30.0


@click.command()
@config_option
@json_option
def reload(config_file: str | None, as_json: bool) -> None:
    """Have the running agent read its configuration again, and say whether it uses it.

    With a bad configuration the agent goes on with the old one, and the command ends with 78. As root, a reload of the
    service also hands the key over anew.
    """
    loaded = load(config_file, "state")
    answer = _reloaded(loaded)
    print_answer(answer, as_json, _line)


def _reloaded(loaded: "Loaded") -> dict[str, Any]:
    from axomsync.ledger import holder
    from axomsync.ops.managed import call_manager, managed_units

    folder = loaded.settings.state.folder
    if holder(folder) is None:
        raise Rejected(
            f"no agent holds {folder}; an agent reads its configuration when it starts; "
            "after a change of [state] folder, restart it"
        )
    told = [unit for unit in managed_units(loaded.path) if unit.is_active and (unit.of_user or os.geteuid() == 0)]
    for unit in told:
        call_manager([*unit.manager, "reload", unit.name])
    answer = steer(loaded, "reload", patience=PATIENCE_SECONDS)
    if answer is None:
        raise AxomsyncError("the agent ended meanwhile; it reads its configuration when it starts")
    return {**answer, "units": [unit.name for unit in told]}  # these have read it before they were asked what has changed


def _line(answer: dict[str, Any]) -> str:
    changed = ", ".join("[{}] {}".format(*key.split(".", 1)) for key in answer["changed"])
    since = "nothing has changed" if not answer["units"] else f"{', '.join(answer['units'])} was reloaded"
    return f"{answer['path']} is in use: {f'changed: {changed}' if changed else since}"
