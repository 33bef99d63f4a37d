"""The network side: connections, what their requests ask for, and how they are answered."""
