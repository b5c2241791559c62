"""The failures that the sandbox's parts raise."""


class NoCatalog(Exception):
    """A file that no catalog has written; the message names it and says what to do."""


class Conflict(Exception):
    """A request that clashes with the state of the console: HTTP 409."""


class ObjectStoreError(Exception):
    """An object store that is missing, did not start, or refused a call; the message says what to do or shows its log."""
