"""Redis and Valkey: kombu's lists, reordered by scripts that move each message in one step."""
