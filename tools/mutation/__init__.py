"""Small changes to the library, and which of them the tests notice (``__main__``)."""
