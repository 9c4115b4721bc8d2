"""What is remembered where a broker cannot remember: stores in the memory of this process."""
