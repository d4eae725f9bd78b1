"""What is remembered: a journal that is fsynced first, and a ledger that can be queried."""
