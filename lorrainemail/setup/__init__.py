"""A start: state directory, lock, ports, first files; and how a server's parts begin and end."""
