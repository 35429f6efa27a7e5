"""What the workers have in common: attempts in, their ends, usage and pieces of text out, and reports of the fleet."""
