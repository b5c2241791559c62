"""The installation that is examined, as every check gets it."""

import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from axomsync.config import Settings
from axomsync.ops import access


@dataclass(frozen=True)
class Installation:
    """One configuration and what uses it. `write` allows checks to leave a tiny object in storage."""

    settings: Settings
    environ: Mapping[str, str]
    units: list[access.Unit]  # systemd's, as far as they use this configuration
    write: bool
    config: Path = Path("/etc/axomsync/config.toml")

    @property
    def service(self) -> pwd.struct_passwd | None:
        """The user of the service, None when there is no such user."""
        return access.service_user(self.units, access.SERVICE_USER)

    @property
    def ca_file(self) -> str | None:
        """The file of the private certificate authority, if one is configured."""
        ca_file = self.settings.console.ca_file
        return str(ca_file) if ca_file else None

    @property
    def folders(self) -> dict[str, Path]:
        """The folders in use, by their section of the configuration."""
        s = self.settings
        wanted = {"state": True, "drop": s.drop.enabled, "mirror": s.mirror.enabled}
        places = {"state": s.state.folder, "drop": s.drop.folder, "mirror": s.mirror.folder}
        return {name: folder for name, folder in places.items() if wanted[name]}

    @property
    def views(self) -> dict[str, Path]:
        """The folders of the views beside the mirror, as the configuration writes them."""
        mirror = self.settings.mirror
        return {str(view): view.folder for view in mirror.views} if mirror.enabled else {}
