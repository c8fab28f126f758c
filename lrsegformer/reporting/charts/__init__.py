"""Charts of a page: matplotlib draws them, as SVG whose text stays text and whose colours are the page's."""
