"""What is sent without being asked."""
