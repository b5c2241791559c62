"""What axomsync costs and how fast it is, beside other clients; `make bench`."""
