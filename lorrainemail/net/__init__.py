"""The network's side: peers, limits, TLS, DNS."""
