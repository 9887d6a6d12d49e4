"""A start: state directory, lock, ports, first files; and how the parts of a server begin and end together."""
