"""One page from many runs: what was found below some folders, as tables, charts and pictures in a single file."""
