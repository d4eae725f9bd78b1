"""The outside shapes: what clients send and read, byte for byte. No decision is taken here."""
