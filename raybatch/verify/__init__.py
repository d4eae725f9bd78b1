"""Whether raybatch kept its word, told by code that shares nothing with what it judges."""
