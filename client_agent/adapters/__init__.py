"""The device's hands: disk, server, database, keystore. Everything impure, nothing clever."""
