"""Campaigns against the agent's promises: one seed draws a world, the strikes against it, and their moments.

calls.c, forge.py   lives of the agent whose file calls are counted, and struck at one of them
schedule.py         what a seed means (pure)
world.py            folders, far side and people of one schedule
claims.py           what must be true, said by code that shares nothing with the agent
campaign.py         `make stress`: many seeds, and the shortest schedule of one that fails
mutants.py          deliberate faults of the agent, each of which a campaign must find
"""
