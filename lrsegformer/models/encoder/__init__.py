"""What takes the place of the stock encoder's parts."""
