"""The server's brain: virtual actors, one message in one turn in one transaction."""
