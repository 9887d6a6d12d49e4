"""What other domains publish of the TLS that mail for them must have: MTA-STS, DANE; and reports of it."""
