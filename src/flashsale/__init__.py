"""A flash-sale engine: sells N units to a crowd, never N+1, and can prove it."""

__version__ = "0.1.0"
