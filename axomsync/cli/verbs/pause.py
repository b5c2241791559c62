"""`pause`: stop transfers, for a while or until `resume`."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import print_answer, steer


@click.command()
@config_option
@json_option
@click.option("--for", "period", metavar="DURATION", help="Resume after so long, such as 2h.")
def pause(config_file: str | None, as_json: bool, period: str | None) -> None:
    """Pause all transfers, keeping the bytes of those under way."""
    from axomsync.config.units import parse_duration

    try:
        parameters = {} if period is None else {"seconds": parse_duration(period)}
    except ValueError as error:
        raise click.UsageError(f"--for {period}: {error}") from None
    answer = steer(load(config_file, "state"), "pause", None, parameters)
    print_answer(answer, as_json, lambda a: f"paused until {a['paused_until'] or '`axomsync resume`'}")
