"""What keeps the daemon running and tells its state. Empty on purpose: `status` must stay light."""
