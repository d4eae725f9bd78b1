"""Operator commands, a page each: measure, break and look over a raybatch."""
