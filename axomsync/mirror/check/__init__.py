"""Are the bytes what storage has, and do they make sense? Before they are published, and later."""
