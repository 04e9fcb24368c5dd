"""The page under other programs' names."""
