"""Every name that the agent gives to files and folders; `docs/how-it-works.md` tells which ones others may rely on."""

# In the state folder
LEDGER_FILE = "state.db"
LOCK_FILE = "agent.lock"
IDENTITY_FILE = b"identity"  # who this agent is to others on the same folders
SPOOL = b"spool"  # of unpacked files, which have no names

# In the drop folder
ARCHIVE, REJECTS, CLAIMS = b"uploaded", b"rejected", b".axomsync"
RECEIPT = b".receipt.json"  # appended to the name of the uploaded file
REASON = b".reason.txt"  # appended to the name of the rejected file
DELETING = b".axomsync-deleting-"  # a confirmed file on its way to deletion, before the number of its row

# In the mirror folder
CURRENT = "current"
PIN, FAILED = ".pinned", ".failed"  # beside `current`: the version that holds it, and the one that was not healthy
RECORD = ".axomsync.json"
INTERNAL = ".axomsync"
LOST_FOUND = "lost+found"  # root's, at the top of a disk; the folder of no model has this name
REMOVED, REPAIRED, IMPORTED = ".removed-", ".repaired-", ".imported-"  # in INTERNAL; no staging folder begins with a dot
NEW_LINK = ".new-link-"  # name of a new `current` until it replaces the old one

# In the folder of a view
VIEW_TAG = b"CACHEDIR.TAG"  # a name that huggingface_hub and backup programs know; no engine takes a file for a model

UNFINISHED = b".axomsync-unfinished-"  # name of any file until it is whole
