"""What attacks maximise: a value an image, with its gradient and the number of pixels that are right."""
