"""A simulated day of a fleet of unequal nodes that come and go: real router and worker, in virtual time."""
