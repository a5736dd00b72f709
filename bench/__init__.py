"""What is measured: each module prints one table, side by side with what it is compared to."""
