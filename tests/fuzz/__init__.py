"""Hostile input: for every parser of outside bytes, any input gives a value or one of the errors that it documents.

parsers.py     the parsers, each with inputs that are right and with what it may raise
mutations.py   inputs that are nearly right: by bytes, and by the structure of JSON (pure)
one.py         a search in one parser, led by which lines of the agent an input reaches (atheris, in a process of its own)
__main__.py    `make stress FUZZ=INPUTS`: all parsers, and how many inputs each got
"""
