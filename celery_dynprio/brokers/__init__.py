"""Adapters: what each broker makes of the ports. They know nothing of each other."""
