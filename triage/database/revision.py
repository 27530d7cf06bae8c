"""The database revision that this program needs. Light: `triage status` reads it too."""

HEAD = "0002"
