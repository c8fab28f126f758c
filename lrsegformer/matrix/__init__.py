"""Experiments of many runs: a file that says which, the ordinary command for each, and tables of the scores."""
