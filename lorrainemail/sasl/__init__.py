"""Who may log in: mechanisms, passwords, throttling and the one twisted.cred portal."""
