"""The budgets, each measured beside its rival in the same run: `make bench`."""
