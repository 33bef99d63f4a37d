"""The street: connections, what their requests ask for, and how they are answered."""
