"""The evaluator: ML Programs compiled to steps and run with torch."""
