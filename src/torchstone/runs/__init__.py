"""A run folder's life: recipes, execution, loading, seeds, export, records."""
