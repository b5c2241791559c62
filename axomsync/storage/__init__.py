"""Object storage: the meaning of its answers (`s3`, pure) and the transfer of bytes (`client`)."""

import os

# The Rust client has an allocator of its own, mimalloc, which reads its options once, when it is loaded. By default it gives
# freed memory back late, and only in part: with 64 lanes that is 100 MiB.
os.environ.setdefault("MIMALLOC_ARENA_EAGER_COMMIT", "0")
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")
