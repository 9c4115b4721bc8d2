"""What a broker and its stores must offer."""
