"""The benchmarks: each module prints one table, which compares this project with an alternative."""
