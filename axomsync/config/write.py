"""Write the configuration: a commented example file, and values as the file spells them."""

import json
from collections.abc import Mapping

from axomsync.config.keys import reference
from axomsync.config.load import Loaded


def example(values: Mapping[str, object] | None = None) -> str:
    """Return the text of a commented configuration file; `values` (`"drop.folder"` → value) replace defaults."""
    chosen = values or {}
    blocks = ["# Configuration of axomsync. Every key is shown with its default; delete what you don't change."]
    for section, keys in reference().items():
        lines = [f"{k.name} = {as_toml(chosen.get(f'{section}.{k.name}', k.default))}  # {k.why}" for k in keys]
        blocks.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def effective(loaded: Loaded) -> list[dict[str, object]]:
    """Return every key with its value as the file spells it, and the origin of that value."""
    return [
        {"key": f"{section}.{key}", "value": value, "from": loaded.origins.get(f"{section}.{key}", "default")}
        for section, values in loaded.settings.model_dump(mode="json", by_alias=True).items()
        for key, value in values.items()
    ]


def as_toml(value: object) -> str:
    """Return a value as the file spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
