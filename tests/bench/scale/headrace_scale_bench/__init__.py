"""`make bench-scale`: what a task costs when the platform scales out, and when its state grows."""
