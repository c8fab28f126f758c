"""Files on disk: which image belongs to which mask, and how their content becomes pixels and raw mask values."""
