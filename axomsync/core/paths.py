"""Every name that the agent gives to files and folders; who may rely on which is in `docs/how-it-works.md`."""

# In the state folder
LEDGER_FILE = "state.db"
LOCK_FILE = "agent.lock"

# In the drop folder
ARCHIVE, REJECTS, CLAIMS = b"uploaded", b"rejected", b".axomsync"
RECEIPT = b".receipt.json"  # behind the name of the file that was uploaded
REASON = b".reason.txt"  # behind the name of the file that was rejected

# In the mirror folder
CURRENT = "current"
RECORD = ".axomsync.json"
INTERNAL = ".axomsync"
REMOVED, REPAIRED = ".removed-", ".repaired-"  # in there; no staging folder begins with a dot
NEW_LINK = ".new-link-"  # how `current` is called until it takes its place

UNFINISHED = b".axomsync-unfinished-"  # how any file is called until it is whole
