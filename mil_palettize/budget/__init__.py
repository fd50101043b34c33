"""Which palette each weight gets, so that all together stay within a size or reach a quality."""
