"""Transfer of bytes from signed URLs to the disk. It knows files and URLs, not models."""
