"""The mirror folder: each ready model of the console, complete and verified, with `current` beside its versions."""
