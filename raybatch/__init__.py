"""raybatch: self-hosted batch inference that speaks the OpenAI Batch API."""

__version__ = "0.1.0"
