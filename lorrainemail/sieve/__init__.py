"""Sieve: scripts compiled and run to effects, and where accounts keep them."""
