"""What operator commands are made of. Never imported by the daemon."""
