"""The benchmarks of this project. ``python -m bench`` runs all of them."""
