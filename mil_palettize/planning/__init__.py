"""What will be done to each weight, and why not. No value of a weight is read here."""
