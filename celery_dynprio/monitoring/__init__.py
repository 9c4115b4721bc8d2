"""Observers of the reprioritizer; nothing of this is imported where it is off."""
