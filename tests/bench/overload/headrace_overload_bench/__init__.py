"""`make bench-overload` and `make soak`: the platform under more than its models can do, and under half for long."""
