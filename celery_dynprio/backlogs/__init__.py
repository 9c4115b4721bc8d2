"""Where pending tasks wait: one adapter a broker behind one port."""
