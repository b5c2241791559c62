"""Inference engines of this machine, told about a new version by `axomsync tell`: a module each.

`events` reads what happened, `client` talks HTTP. Each engine is asked first, so that telling it twice does no harm.
"""
