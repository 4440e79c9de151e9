"""Architecture benchmarks: tables of architectures with a quality, and their builders."""
