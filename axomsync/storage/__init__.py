"""Object storage: what its answers mean (`s3`, pure) and the bytes to and from it (`client`)."""
