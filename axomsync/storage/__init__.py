"""Object storage: the meaning of its answers (`s3`, pure) and the transfer of bytes (`client`)."""
