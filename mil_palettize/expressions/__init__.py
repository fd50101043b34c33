"""What a weight is stored as: the expression, its packed integers, its digest (numpy only)."""
