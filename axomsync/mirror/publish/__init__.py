"""The mirror folder: publication of complete models, `current`, readers, records and space."""
