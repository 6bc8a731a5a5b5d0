"""Planning: search with a model of the world, known or learned."""
