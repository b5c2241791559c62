"""The base of all other rooms: records, errors, names on disk, text, folders by descriptor. It imports none of them."""
