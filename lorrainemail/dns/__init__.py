"""The authoritative DNS door: zone files, answers, UDP and TCP."""
