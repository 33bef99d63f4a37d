"""Makes the queue visible: turns its events and its state into log lines, metrics and pages."""
