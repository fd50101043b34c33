"""Programs inside coremltools (PyMIL), seen as the serialized ones they will become."""
