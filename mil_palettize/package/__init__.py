"""``.mlpackage`` folders and ``weight.bin`` files: checked reading, streamed writing, atomic replacing."""
