"""Piccolo migrations, oldest first. Each is run once per namespace, all pending in one transaction.

Each has a `SCRIPT`, in which `{accounts}` and `{metadata}` stand for the schemas; a table without
schema is made in `metadata`. They are plain DDL, since Piccolo's columns know no composite keys, partitions, exclusion constraints or
triggers; `tests/actors/adapters/test_postgres_tables.py` holds them and `tables.py` together.
A released migration is never edited.
"""
