"""What all other rooms stand on: records, errors, names on disk, text, folders by descriptor. Knows nothing of the rest."""
