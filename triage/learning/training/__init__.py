"""From material to a finished bundle: fit, gate, write, and say how."""
