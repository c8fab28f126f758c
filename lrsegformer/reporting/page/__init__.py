"""From what was found to one HTML file and its Markdown twin."""
