"""The soak: one agent that works for hours while files and models come, answers fail, and it is killed again and again.

plan.py      what comes, drawn from a seed (pure)
far_side.py  a console and a storage of which a part of the answers fails; goes on in a later piece
series.py    what is measured from outside, and whether it stays flat (pure); the plot
claims.py    what must be true at the end of a piece, said by code that shares nothing with the agent
piece.py     one piece of a soak; `python -m tests.soak` (`make stress SOAK=MINUTES`) runs one
"""
