"""Everything the action talks to, on one machine and without an account."""
