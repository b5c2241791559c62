"""What both far sides share: HTTP facts, proxies, certificate authorities, addresses that may be asked."""
