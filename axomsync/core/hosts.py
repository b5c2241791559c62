"""The names of hosts, as DNS takes them. Pure."""

LABEL_MOST, NAME_MOST = 63, 253  # characters between two dots, and in all (RFC 1035, 2.3.4)


def host_fault(host: str) -> str | None:
    """What is wrong with the name of a host, which may be an address; None when a resolver can be asked for it.

    Resolvers, proxies and httpx raise a `UnicodeError` or an `OverflowError` for such a name, which nobody expects of a
    network.
    """
    lengths = list(map(_length, host.removesuffix(".").split(".")))
    if 0 in lengths:
        return "its host name has a dot too many"
    if max(lengths) > LABEL_MOST or sum(lengths) + len(lengths) - 1 > NAME_MOST:
        return f"its host name is longer than DNS allows ({LABEL_MOST} characters between two dots, {NAME_MOST} in all)"
    if not host.isascii() or host.lower().startswith("xn--"):
        return _international_fault(host)
    return None


def _international_fault(host: str) -> str | None:
    """What httpx, which reads these names by IDNA 2008, would raise errors for."""
    import httpx  # needed for few hosts, and slow to import

    try:
        httpx.Request("GET", f"http://{host}/")
    except (ValueError, httpx.InvalidURL):
        return "its host name is no valid international name (IDNA 2008)"
    return None


def _length(label: str) -> int:
    """The length as DNS counts it: other letters than ASCII's are written in ASCII there."""
    if label.isascii() or len(label) > LABEL_MOST:
        return len(label)
    return len("xn--") + len(label.encode("punycode"))
