"""Configuration: TOML and environment in, frozen settings out.

`settings` has the keys, `values` and `units` their types; `locations`, `environment` and `load` read them, `write` writes
them, `instances` looks at those of all agents of a machine; `secrets` reads the API key and the page's token. Others import
from here.
"""

from axomsync.config.environment import misspelt
from axomsync.config.instances import everyone, free_listen, neighbours
from axomsync.config.keys import ENVIRONMENT_PREFIX, Key, changes, reference
from axomsync.config.load import Loaded, load, overlap, parse
from axomsync.config.locations import (
    SYSTEM_CONFIG,
    check_instance,
    defaults_for_user,
    find,
    instance_config,
    instance_names,
    instance_of,
    instance_values,
)
from axomsync.config.secrets import key_file_warning, load_key, load_token, read_token
from axomsync.config.settings import DropSettings, HookSettings, MirrorSettings, Reload, Settings, WebSettings
from axomsync.config.units import parse_size
from axomsync.config.values import (
    Bandwidth,
    Command,
    Connections,
    Duration,
    Folder,
    Gateways,
    Globs,
    Group,
    Mode,
    OptionalDuration,
    OptionalFile,
    OptionalSize,
    Promote,
    Size,
    Switch,
    View,
    is_loopback,
    listen_address,
    may_use_plain_http,
    parse_listen,
)
from axomsync.config.write import as_toml, effective, example

__all__ = [
    "ENVIRONMENT_PREFIX",
    "SYSTEM_CONFIG",
    "Bandwidth",
    "Command",
    "Connections",
    "DropSettings",
    "Duration",
    "Folder",
    "Gateways",
    "Globs",
    "Group",
    "HookSettings",
    "Key",
    "Loaded",
    "MirrorSettings",
    "Mode",
    "OptionalDuration",
    "OptionalFile",
    "OptionalSize",
    "Promote",
    "Reload",
    "Settings",
    "Size",
    "Switch",
    "View",
    "WebSettings",
    "as_toml",
    "changes",
    "check_instance",
    "defaults_for_user",
    "effective",
    "everyone",
    "example",
    "find",
    "free_listen",
    "instance_config",
    "instance_names",
    "instance_of",
    "instance_values",
    "is_loopback",
    "key_file_warning",
    "listen_address",
    "load",
    "load_key",
    "load_token",
    "may_use_plain_http",
    "misspelt",
    "neighbours",
    "overlap",
    "parse",
    "parse_listen",
    "parse_size",
    "read_token",
    "reference",
]
