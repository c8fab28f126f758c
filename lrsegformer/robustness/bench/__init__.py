"""The bench: every model under every condition, cell by cell."""
