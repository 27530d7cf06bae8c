"""For the data scientist: make, calibrate, judge and replay bundles on the hospital's own studies.

Needs the extra `triage[learning]`; the daemon runs without it. What a model is at run time belongs
to `inference`; nothing here is imported by what serves.
"""
