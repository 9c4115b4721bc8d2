"""Observers of the reprioritizer: metrics, events and the page in Flower. What is off is never imported."""
