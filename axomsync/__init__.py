"""The sync agent for GPU boxes: drop-folder datasets up, ready models down."""

__version__ = "0.1.0"
