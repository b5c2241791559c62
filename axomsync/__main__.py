"""`python -m axomsync`."""

from axomsync.cli import main

main()
