"""Discovery of losses by evolution: the searched class, the strategy, the search, its export."""
