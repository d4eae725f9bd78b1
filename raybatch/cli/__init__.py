"""The `raybatch` command."""
