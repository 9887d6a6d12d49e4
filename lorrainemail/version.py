"""The one place that states the version; packaging and ``--version`` read it here."""

VERSION = "0.1.0"
