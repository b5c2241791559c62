"""The drop folder: each finished file is checked, uploaded once, and put away with a receipt."""
