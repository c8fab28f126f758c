"""What is guaranteed of a model's predictions, beside what attacks find and what smoothing certifies."""
