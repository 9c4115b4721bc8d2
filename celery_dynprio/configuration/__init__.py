"""Settings from plain data: each value is checked, and an error names the setting and what is allowed."""
