"""Finds what is wrong with a deployment, and names the remedy."""
