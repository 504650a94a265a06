"""End-to-end encryption, made and opened on devices only (CRYPTO.md 1 to 4).

Synchronous and safe to call from many threads; everything heavy releases the GIL.
"""
