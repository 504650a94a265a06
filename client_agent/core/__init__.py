"""The device's pure half: no disk, no network, no clock, no dice."""
