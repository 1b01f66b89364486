"""Figures, ours beside a peer's, measured in one run: `make bench`."""
