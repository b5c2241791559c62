"""Bytes of files from signed URLs to the disk; knows files and URLs, not models."""
