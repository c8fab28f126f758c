"""Attacks through the packages that the field compares by; each is imported where it is used."""
