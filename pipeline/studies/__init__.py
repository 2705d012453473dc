"""A comparison of recipes: its definition, its frozen copy of the project, its runs, its result."""
