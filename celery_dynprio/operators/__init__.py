"""What operators see and do; one face for the command line, Flower and Python."""
