"""Speed, measured side by side with a peer in the same run; never part of the test suite."""
