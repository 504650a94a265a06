"""What we start: gateway, worker, relay, standalone; and the one place that picks adapters."""
