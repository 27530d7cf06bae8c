"""For the data scientist: make, calibrate, judge and replay bundles on the hospital's own studies.

Needs the extra `triage[learning]`. What a model is at run time belongs to `inference`. Of all this
the daemon imports only what the drift sweep judges by, which is numpy alone.
"""
