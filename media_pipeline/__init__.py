"""Pictures, videos and recordings understood on one plain server."""

__version__ = "0.1.0"
