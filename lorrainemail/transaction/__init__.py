"""One transaction from the final dot to its reply, step by step; :mod:`lorrainemail.intake` runs it."""
