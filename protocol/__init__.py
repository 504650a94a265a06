"""The shared language of Syncline: what devices, gateways and actors say to each other.

Pure: no clock, no dice, no disk, no network. Whoever needs time or randomness passes it in.
"""
