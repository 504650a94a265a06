"""The device: a sans-I/O engine in `core`, its seals in `crypto`, all I/O in `adapters`."""
