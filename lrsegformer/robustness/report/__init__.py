"""From finished cells to tables, curves and sheets of pictures."""
