"""Decisions, and nothing else: facts and a time go in, a decision comes out.

No clock, disk, database, network or randomness here; callers gather the facts and act on the
answer. Each rule's policy is a frozen dataclass beside it; triage.toml fills it.
"""
