"""Things that a person asks for and waits for: done by the running agent, or by this process when none runs.

Failures handled: those of what was asked; an agent that ends meanwhile (`Transient`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axomsync.config import Loaded


def errand(
    loaded: "Loaded",
    verb: str,
    argument: str | None,
    parameters: dict[str, Any] | None = None,
    *,
    patience: float,
) -> dict[str, Any]:
    """Have the agent do `verb` (see `Commands`), and return its answer. Raises the agent's error."""
    from axomsync.agent.agent import Agent
    from axomsync.agent.one_shot import errand as do_now
    from axomsync.cli.context import as_owner
    from axomsync.cli.steering import steer
    from axomsync.ledger import holder
    from axomsync.ops import logs

    environ = as_owner(loaded)
    if holder(loaded.settings.state.folder) is not None:
        answer: dict[str, Any] | None = steer(loaded, verb, argument, parameters, patience)
        if answer is not None:
            return answer
    logs.set_up(loaded.settings.log.format, "warning")
    return do_now(Agent(loaded, environ), verb, argument, parameters or {})
