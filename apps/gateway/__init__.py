"""The gateway: what devices talk to."""
