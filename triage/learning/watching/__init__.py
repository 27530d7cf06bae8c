"""A bundle on the studies that arrive: what another would have said, and what changes."""
