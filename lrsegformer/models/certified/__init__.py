"""Scope certified: the heads, the network's constant, and the start from a stock backbone."""
