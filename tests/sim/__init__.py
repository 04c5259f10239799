"""A deterministic simulation of whole jobs: real driver, desk, worker agent, journal and commit; all else virtual."""
