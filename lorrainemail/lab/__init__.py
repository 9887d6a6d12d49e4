"""The lab: one message, two complete servers, every line shown."""
