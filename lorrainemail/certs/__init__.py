"""Certificates that the server makes for itself."""
