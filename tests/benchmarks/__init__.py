"""Speed, measured side by side with a peer in the same run; never part of the test suite."""

# One module each, in the order in which they are run and shown.
BENCHES = (
    *("receive", "large", "flags", "decode", "queue", "database", "commands", "start"),
    *("learning", "gpu"),
)
