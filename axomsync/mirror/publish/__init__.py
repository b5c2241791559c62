"""The mirror folder: where a whole model appears, what `current` leads to, who reads what."""
