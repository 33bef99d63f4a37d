"""Where grants are recorded, so that they outlive the process."""
