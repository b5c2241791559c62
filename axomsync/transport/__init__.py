"""Shared by console and storage: HTTP facts, proxies, certificate authorities, allowed addresses."""
