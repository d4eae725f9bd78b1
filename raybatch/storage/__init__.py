"""Bytes at rest: uploads, request indexes, result parts. Nobody else opens these files."""
