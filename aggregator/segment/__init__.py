"""The segment: its schema, its snapshots, and how they are written for readers."""
