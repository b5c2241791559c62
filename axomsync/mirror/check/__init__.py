"""Checks of bytes: equal to storage's, and valid in their format; before publication and later."""
