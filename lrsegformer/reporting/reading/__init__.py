"""From the files that runs, benches and certificates leave to what a page can compare."""
