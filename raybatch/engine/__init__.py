"""Who generates: one contract, vLLM and echo behind it."""
