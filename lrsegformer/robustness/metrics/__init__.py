"""Scores beyond one confusion matrix: worst cases, corruption summaries, calibration, small objects, slopes."""
