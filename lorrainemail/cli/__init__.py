"""The operator's commands, one module each; ``main`` knows them all."""
