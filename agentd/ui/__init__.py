"""What people see: one-line renderings that are safe to print on a terminal."""
