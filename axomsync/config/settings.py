"""The sections of the configuration: each key with its type, its default and why to change it. Nothing else.

A new key is one line here, and `make docs`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr
from pydantic.config import JsonDict

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
    Views,
    Whole,
    console_url,
    host_names,
    media_type,
    parse_listen,
    text_list,
)


class Reload(StrEnum):
    """The effect of a reload on a changed key."""

    AT_ONCE = "at once"  # transfers go on
    TRANSFERS = "transfers begin again"  # resuming at their durable bytes
    RESTART = "needs a restart"


def _key(default: object, why: str, *, reload: Reload = Reload.TRANSFERS, **constraints: Any) -> Any:
    extra: JsonDict = {"reload": reload.value}
    return Field(default=default, validate_default=True, description=why, json_schema_extra=extra, **constraints)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)


class ConsoleSettings(_Section):
    """`[console]`: the address of the Axom console, and the key for it."""

    url: Annotated[str, AfterValidator(console_url)] = _key(
        "https://console.axomlabs.ai/api", "base URL of the console's API"
    )
    key_file: OptionalFile = _key("", 'file that holds the API key; "" uses $AXOM_KEY or the systemd credential axom_key')
    ca_file: OptionalFile = _key("", "PEM file with a private certificate authority to trust besides the system's")


class StateSettings(_Section):
    """`[state]`: the place of the ledger."""

    folder: Folder = _key(
        "/var/lib/axomsync", "holds the ledger; must be on a local disk, not on NFS or Lustre", reload=Reload.RESTART
    )


class DropSettings(_Section):
    """`[drop]`: the folder whose new files are uploaded."""

    enabled: Switch = _key(True, "false makes an agent that only mirrors")
    folder: Folder = _key("/srv/axom/drop", "every new dataset file below it is uploaded")
    include: Globs = _key(
        ["*.jsonl"],
        "globs of files to take, case ignored; matched against the file name and the path below the folder; "
        '"*.jsonl.gz" and "*.jsonl.zst" are uploaded as what they hold',
    )
    exclude: Globs = _key(
        [],
        "globs of files to leave out, besides dotfiles, locks (~$*) and unfinished files (*.part, *.tmp, *~ and the like)",
    )
    settle: Duration = _key("5s", "a file counts as finished when it has not changed for this long", ge=0)
    rescan: Duration = _key("1m", "the folder is scanned at least this often, also without events", gt=0)
    done_marker: str = _key("", 'such as ".done": a file is taken only when <file>.done lies beside it and is not older')
    observer: Literal["auto", "inotify", "polling"] = _key("auto", "polling also finds files on network filesystems")
    validate_: Literal["full", "sample", "off"] = _key(
        "full", "full parses every line; sample the first and last 1 MiB; off trusts the exporter", alias="validate"
    )
    schema_: Literal["report", "off", "chat", "pairs", "preference", "text"] = _key(
        "report",
        "report tells what a trainer would stumble over; chat, pairs, preference and text reject files of another shape",
        alias="schema",
    )
    dedupe: Literal["name", "content"] = _key(
        "name", "name uploads equal content again under another name; content uploads it once"
    )
    after: Literal["archive", "keep", "delete"] = _key("archive", "what happens to a file after storage has confirmed it")
    archive_for: OptionalDuration = _key(
        "", 'such as "30d": archived files are removed at that age, and their receipts stay; "" keeps them'
    )
    content_type: Annotated[str, AfterValidator(media_type)] = _key(
        "application/jsonl", "content type of the files, as told to the console"
    )
    max_put: Size = _key("5115MiB", "largest single PUT that storage accepts; larger files are held", gt=0)
    shard: OptionalSize = _key("", 'split larger files at line ends into uploads of this size; "" uploads files whole')


class MirrorSettings(_Section):
    """`[mirror]`: the folder in which every ready model appears."""

    enabled: Switch = _key(True, "false makes an agent that only uploads")
    folder: Folder = _key("/srv/axom/models", "every ready model appears below it as name/version")
    poll: Duration = _key("1m", "interval between two requests for the list of models", gt=0)
    include: Globs = _key(["*"], "models to mirror: globs over name, name/version or id")
    exclude: Globs = _key([], "models to leave out, by the same kind of globs")
    files: Globs = _key(["*"], "files of a model to fetch: globs over the path inside the model")
    keep: Whole = _key(0, "newest versions of a name to keep; 0 keeps all", ge=0)
    keep_gone: Switch = _key(True, "false: also remove models deleted in the console, after one day and ten polls")
    max_size: OptionalSize = _key("", 'size limit for all models together; "" is the size of the disk')
    reserve: Size = _key("1GiB", "free space that models and unpacked files never use", ge=0)
    verify: Literal["etag", "size"] = _key(
        "etag",
        "etag compares storage's checksums and checks file formats; size skips both",
    )
    views: Views = _key(
        [],
        'folders of links that lead to what is current, such as ["flat:/srv/axom/serving", "hf:/srv/axom/hf"]: flat for '
        "Triton and vLLM, hf is a cache of huggingface_hub",
    )
    promote: Promote = _key(
        "now",
        'when "current" moves to a new version: "now", "manual" (`axomsync promote`), or windows like ["Sat 02:00-05:00"]',
        reload=Reload.AT_ONCE,
    )
    warm: Literal["", "current"] = _key(
        "", "current reads what current leads to into the page cache, if it fits into half of the available memory"
    )
    group: Group = _key("", 'group of everything published, by name or number; "" leaves it as the filesystem gives it')
    mode: Mode = _key("0644", "rights of published files, in octal; folders get x where r is")
    scrub: OptionalDuration = _key("30d", 'interval of reading and repairing published bytes, slowly; "" is never')


class TransferSettings(_Section):
    """`[transfer]`: connections, speed and patience of transfers."""

    connections: Connections = _key(
        "auto", "most connections to storage at once; auto is one for each 0.4 Gbit/s of the fastest link, 16 to 256"
    )
    bandwidth: Bandwidth = _key(
        "", 'a rate like "100MB/s" or a timetable like ["Mon-Fri 08:00 50MB/s", "20:00 off"]', reload=Reload.AT_ONCE
    )
    stall: Duration = _key("30s", "a connection without a byte for this long is closed and tried again", gt=0)
    allow_http: Switch = _key(False, "true allows plain http to hosts other than this one")
    gateways: Gateways = _key(
        [],
        'caches that the mirror asks before storage, such as ["http://box1:9080"]; the same list on every box',
        reload=Reload.AT_ONCE,
    )


class WebSettings(_Section):
    """`[web]`: the status page and metrics."""

    listen: Annotated[str, AfterValidator(parse_listen)] = _key(
        "127.0.0.1:9464", 'host:port of the status page; "" is off', reload=Reload.AT_ONCE
    )
    token_file: OptionalFile = _key(
        "", 'file with the access token for the page; "" is allowed on loopback only', reload=Reload.AT_ONCE
    )
    names: Annotated[tuple[str, ...], BeforeValidator(text_list), AfterValidator(host_names)] = _key(
        [],
        "host names that lead to the page through a proxy or DNS; addresses and localhost need no entry",
        reload=Reload.AT_ONCE,
    )


class HookSettings(_Section):
    """`[hooks]`: commands that run when something happens."""

    model_published: Command = _key([], "argument list that runs when a model has been published")
    model_removed: Command = _key([], "argument list that runs when a published model was removed, or got another name")
    current_moved: Command = _key([], "argument list that runs when `current` of a name leads to another version")
    upload_done: Command = _key([], "argument list that runs when a file has been uploaded")
    failed: Command = _key([], "argument list that runs when a transfer is parked")
    before_upload: Command = _key(
        [], "gate: argument list that judges a checked file before it is sent; any exit code but 0 keeps it here"
    )
    before_publish: Command = _key(
        [], "gate: argument list that judges a verified model before it appears; any exit code but 0 keeps it away"
    )
    health: Command = _key(
        [], "argument list that checks a version after `current` moved to it; when it fails, `current` goes back"
    )
    health_for: Duration = _key("5m", "a new version is checked again and again for this long", gt=0)
    timeout: Duration = _key("1m", "a hook or gate that runs longer is stopped, and tried again", gt=0)


class LogSettings(_Section):
    """`[log]`: form and level of the log."""

    format: Literal["auto", "console", "json", "journal"] = _key(
        "auto", "auto is console on a terminal and journal under systemd", reload=Reload.AT_ONCE
    )
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "debug says why nothing happens", reload=Reload.AT_ONCE
    )


class Settings(_Section):
    """The effective configuration."""

    console: ConsoleSettings = Field(default_factory=ConsoleSettings)
    state: StateSettings = Field(default_factory=StateSettings)
    drop: DropSettings = Field(default_factory=DropSettings)
    mirror: MirrorSettings = Field(default_factory=MirrorSettings)
    transfer: TransferSettings = Field(default_factory=TransferSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    hooks: HookSettings = Field(default_factory=HookSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    _instance: str | None = PrivateAttr(default=None)

    @property
    def instance(self) -> str | None:
        """The name of the instance that these are of; None for the agent without a name."""
        return self._instance

    def belongs_to(self, instance: str | None) -> None:
        """Note whose settings these are. For `load`, which knows it by the file."""
        self._instance = instance
