"""A deterministic simulation of whole jobs: the real driver, desk, worker agent, journal and commit on a virtual world."""
