"""What an operator may do."""
