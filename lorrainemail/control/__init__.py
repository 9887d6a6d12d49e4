"""The control socket: the operator's commands to the running server."""
