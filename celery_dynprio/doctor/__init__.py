"""What is wrong with a deployment, and the remedy."""
