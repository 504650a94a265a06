"""Pure decisions of the server: no clock, no database, no messages in flight."""
