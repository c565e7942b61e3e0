"""Side-by-side measurements. Each file is a command; what it measured is kept in `results/` with the machine."""
