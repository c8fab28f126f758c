"""Tables of a page: what they compare, and how a number over seeds is written."""
