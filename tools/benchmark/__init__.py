"""How fast the library is, beside coremltools (``__main__``) and beside torch (``evaluator``)."""
