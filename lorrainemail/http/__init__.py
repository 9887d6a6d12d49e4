"""The HTTP and HTTPS door: challenges of ACME, the MTA-STS policy, and how mail programs find us."""
