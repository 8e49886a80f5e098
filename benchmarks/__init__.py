"""Speed as a ratio to a named peer, measured side by side in one run, with accuracy checked in that run."""
