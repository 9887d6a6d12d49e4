"""The check-up of a server as the world sees it: what is wrong, why it matters, what to do."""
