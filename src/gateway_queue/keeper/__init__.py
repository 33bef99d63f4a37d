"""Records grants so that they outlive the process."""
