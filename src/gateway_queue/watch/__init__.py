"""What can be seen of the queue: log lines, metrics and pages made of what it reports."""
