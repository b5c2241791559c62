"""Campaigns against the agent's promises: one seed draws a world, a story, the strikes against it, and their moments.

calls.c, forge.py          lives of the agent whose file calls are counted, and struck at one of them
worlds.py, stories.py      what there is before the first life, and what people and the console do between lives (pure)
steps.py, schedule.py      what a seed means (pure)
disk.py, scene.py          the disk; folders, far side and people of one run
wrong_answers.py           what console and storage may answer wrongly
run.py                     one run of a schedule
evidence.py                what a run leaves
claims.py and claims_of_…  what must be true, said by code that shares nothing with the agent
campaign.py                `make stress`: many seeds, and the shortest schedule of one that fails
mutants.py                 deliberate faults of the agent, each of which a campaign must find
"""
