"""The gateway: HTTP and WebSocket on the outside, turns and direct reads on the inside."""
