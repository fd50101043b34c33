"""What is told of a run: reports, differences, comparisons, as text, JSON and pages; progress."""
