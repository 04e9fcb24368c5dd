"""Names: the pods of the node, where they come from, and what they make of a cgroup."""
