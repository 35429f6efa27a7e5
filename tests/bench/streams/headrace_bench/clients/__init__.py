"""The contestants, each in a process of its own (see `headrace_bench.children`)."""
