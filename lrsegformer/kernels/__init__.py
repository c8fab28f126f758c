"""Fast, exact operations that know no model: bilinear resampling, and what is done at every pixel of a large map."""
